"""Ask many things at once: the requests run as one batch."""

import asyncio

from cactus_py import AsyncClient

COUNTRIES = ["France", "Italy", "Japan", "Egypt"]


async def main() -> None:
    async with AsyncClient() as client:
        replies = await asyncio.gather(
            *(client.chat(f"What is the capital of {country}? Answer in one sentence.", temperature=0) for country in COUNTRIES)
        )
    for country, reply in zip(COUNTRIES, replies, strict=True):
        print(f"{country}: {reply.text}")


asyncio.run(main())
