"""Let a model call a function of this program, and answer with what it returned. Needs the extra `structured`."""

import json

from cactus_py import Client

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def get_weather(city: str, unit: str) -> str:
    return f"It rains in {city}, 12 °{unit}."


with Client() as client:
    messages = [{"role": "user", "content": "What is the weather in Paris, in °C?"}]
    choice = {"type": "function", "function": {"name": "get_weather"}}  # "auto" leaves it to the model, "required" which one
    reply = client.chat(messages, tools=[WEATHER], tool_choice=choice, temperature=0, max_tokens=64)
    message = reply.choices[0].message
    messages.append(message)
    for call in message.tool_calls or []:
        arguments = json.loads(call.function.arguments)  # whatever the model: they satisfy the schema
        print(call.function.name, arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": get_weather(**arguments)})
    print(client.chat(messages, temperature=0, max_tokens=48).text)
