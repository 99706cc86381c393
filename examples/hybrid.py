"""Answers on the device where they are probably right, in the cloud where they are not, and says which it was.

Without a cloud everything is answered here. To have one: OPENAI_API_KEY=… CACTUS_PY_CLOUD_MODEL=… python examples/hybrid.py
"""

from cactus_py import Client
from cactus_py.config import RouterSettings

ROUTER = RouterSettings(policy="local_first", max_cloud_share=0.3, redact=["email", "phone", "card", "iban", "key"])

with Client(router=ROUTER) as client:
    for question in ("What is the capital of France? Answer in one sentence.", "What is 17 times 24?"):
        reply = client.chat(question, temperature=0, max_tokens=32)
        sure = "not judged" if reply.confidence is None else f"{reply.confidence:.0%} sure"
        print(f"{question} {reply.text.strip()}\n  {reply.route}, {sure}")
        for reason in reply.decision.reasons if reply.decision else ():
            print(f"  because of {reason}")
    private = client.chat("My PIN is 1234. Say thank you.", max_tokens=16, privacy="local_only")  # whatever the policy says
    print(f"kept here: {private.route}")
