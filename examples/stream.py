"""Print an answer while it is made, then what it cost."""

from cactus_py import Client

with Client() as client:
    stream = client.chat.completions.create(
        messages=[
            {"role": "system", "content": "You answer in one short sentence."},
            {"role": "user", "content": "What do bees make?"},
        ],
        temperature=0,
        max_tokens=60,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        print(chunk.text, end="", flush=True)
        if chunk.usage:
            print(f"\n{chunk.usage.prompt_tokens} tokens read, {chunk.usage.completion_tokens} written")
