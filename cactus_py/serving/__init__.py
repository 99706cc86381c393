"""The local server: OpenAI's HTTP interface over a client. `cactus-py serve` runs it."""
