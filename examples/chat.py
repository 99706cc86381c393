"""Ask one question. The first run fetches the default model."""

from cactus_py import Client

with Client() as client:
    reply = client.chat("What is the capital of France? Answer in one sentence.", temperature=0)
    print(reply.text)
    print(f"answered by {reply.model} ({reply.route})")
