"""The local server: OpenAI's HTTP interface over a client. `cactus-py serve` runs it; `app.create_app` makes the application."""
