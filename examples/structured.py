"""Get answers that a program can read: JSON by a schema, one of several words, a pattern."""

import json

from cactus_py import Client

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

with Client() as client:
    reply = client.chat(
        "Ada Lovelace was 36 years old. Write her name and age as JSON.",
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}},
        temperature=0,
        max_tokens=60,
    )
    person = json.loads(reply.text)
    print(f"{person['name']} is {person['age'] + 1} next year")

    print(client.chat("Is a cat an animal?", guided_choice=["yes", "no"], temperature=0).text)

    time = {"type": "regex", "regex": r"([01]\d|2[0-3]):[0-5]\d"}
    print(client.chat("When does the school day begin? Say a time.", response_format=time, temperature=0).text)
