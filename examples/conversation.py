"""Keep up a conversation: replies go back into the messages, and old turns are forgotten when the context is full."""

from cactus_py import Client

QUESTIONS = ["What is the capital of France? Answer in one sentence.", "And of Italy?", "Thank you!"]

with Client() as client:
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        reply = client.chat(messages, temperature=0, max_tokens=60, context_policy="shift")
        messages.append(reply.choices[0].message)
        print(f"> {question}\n{reply.text}")
