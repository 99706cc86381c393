"""Find the sentence that says nearly the same as a question, by the angle between their vectors."""

from cactus_py import Client

SENTENCES = [
    "Bread rises because yeast makes gas.",
    "The stock market fell sharply on Monday.",
    "Cats sleep for most of the day.",
]

with Client() as client:
    reply = client.embeddings.create(input=["Why were shares worth less this week?", *SENTENCES], model="all-minilm-l6-v2")
    question, *others = (each.values for each in reply.data)
    for sentence, vector in zip(SENTENCES, others, strict=True):
        cosine = sum(a * b for a, b in zip(question, vector, strict=True))  # the vectors have length 1
        print(f"{cosine:5.2f}  {sentence}")
