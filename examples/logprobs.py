"""See how sure the model is of each token, and score two texts against each other."""

import math

from cactus_py import Client

with Client() as client:
    reply = client.chat("Is water wet? Say yes or no.", temperature=0, max_tokens=5, logprobs=True, top_logprobs=2)
    for entry in reply.choices[0].logprobs.content:
        options = ", ".join(f"{top.token!r} {math.exp(top.logprob):.0%}" for top in entry.top_logprobs)
        print(f"{entry.token!r}: {options}")

    for text in ("The sky is blue.", "The sky is screwdriver."):
        scored = client.completions.create(prompt=text, echo=True, max_tokens=0, logprobs=0).choices[0].logprobs
        print(f"{sum(score for score in scored.token_logprobs if score is not None):8.2f}  {text}")
