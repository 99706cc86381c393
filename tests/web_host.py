"""A server for the page alone: its files as the real server sends them, and models that follow a script.

The scripts say what no small model says on request: markup, reasoning, tool calls, errors, an answer that never ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from cactus_py.serving import web
from cactus_py.serving.metrics import Metrics

__all__ = ["HOSTILE", "KEY", "SHOWCASE", "Host", "serving"]

KEY = "sk-test"
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"> **<b onclick=x>bold</b>** [click](javascript:document.title='owned')\n\n"
    "```html\n<script>document.title='owned'</script>\n```\n\n"
    "| <svg onload=\"document.title='owned'\"> | b |\n|---|---|\n| ![x](https://elsewhere.invalid/p.png) | d |\n"
)
SHOWCASE = """Cacti keep water in their **thick stems**, and lose little of it:

1. *Ribs* fold like an accordion, so that the stem can swell.
2. Wax on the skin holds vapour back.
   - also at night
   - and in wind
3. Pores open in the dark, see [CAM](https://en.wikipedia.org/wiki/Crassulacean_acid_metabolism).

```python
def stored_litres(height_m: float, radius_m: float) -> float:
    return 1000 * 3.14 * radius_m**2 * height_m * 0.9
```

| plant | litres | age |
|:--|--:|:-:|
| saguaro | 5000 | 150 |
| barrel `Ferocactus` | 80 | 60 |

> A saguaro after rain may drink 750 litres."""

_CARDS: list[dict[str, Any]] = [
    {"id": "script", "capabilities": ["chat", "reasoning", "tools"], "context": 8192},
    {"id": "hostile", "capabilities": ["chat"]},
    {"id": "endless", "capabilities": ["chat"]},
    {"id": "failing", "capabilities": ["chat"]},
    {"id": "broken", "capabilities": ["chat"]},
    {"id": "handed", "capabilities": ["chat"]},
    {"id": "senses", "capabilities": ["chat", "vision", "audio"]},
    {"id": "scribe", "capabilities": ["transcription"]},
]


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "script-7b", "route": "local", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


class Host:
    """The application and what it saw: bodies of chats, sounds that were sent."""

    def __init__(self, *, key: str | None = None) -> None:
        self.key = key
        self.chats: list[dict[str, Any]] = []
        self.sounds: list[bytes] = []
        self.closed = threading.Event()  # a reader of the endless answer has gone
        self.generated = 0
        self.metrics = Metrics()
        self.app = FastAPI()
        self.app.add_api_route("/", self._page, methods=["GET"])
        self.app.add_api_route("/web/{name}", self._page, methods=["GET"])
        self.app.add_api_route("/v1/models", self._models, methods=["GET"])
        self.app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])
        self.app.add_api_route("/v1/audio/transcriptions", self._transcribe, methods=["POST"])
        self.app.add_api_route("/stats", self._stats, methods=["GET"])
        self.url = ""

    def _refused(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": {"message": "no key"}}, 401)

    async def _page(self, name: str = "index.html") -> Response:
        if name not in web.FILES:
            return Response(status_code=404)
        return Response(web.read(name), media_type=web.FILES[name], headers=web.HEADERS)

    async def _models(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        return JSONResponse({"object": "list", "data": _CARDS})

    async def _stats(self) -> Response:
        self.generated += 40 if self.generated % 3 else 55
        names = ("running", "waiting", "prompt_tokens", "cached_tokens", "drafted_tokens", "accepted_tokens", "preemptions")
        fields = {name: 0 for name in (*names, "evicted_pages")}
        pages = {"kv_pages": 200, "kv_pages_used": 84, "kv_pages_cached": 40, "generated_tokens": self.generated}
        return JSONResponse(self.metrics.stats({"script": SimpleNamespace(**{**fields, **pages, "running": 2})}))

    async def _transcribe(self, request: Request) -> Response:
        form = await request.form()
        file: Any = form["file"]
        self.sounds.append(await file.read())
        await form.close()
        return JSONResponse({"text": " what was said"})

    async def _chat(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        body = await request.json()
        self.chats.append(body)
        if body["model"] == "failing":
            return JSONResponse({"error": {"message": "The prompt is longer than the context."}}, 400)

        async def lines() -> AsyncIterator[str]:
            async for event in self._script(body):
                yield f"data: {json.dumps(event)}\n\n"
            if body["model"] != "broken":
                yield "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _script(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        model = body["model"]
        yield _chunk({"role": "assistant", "content": ""})
        if model == "endless":
            try:
                for i in range(10_000):
                    yield _chunk({"content": f"word{i} "})
                    await asyncio.sleep(0.02)
            finally:
                self.closed.set()
        if model == "handed":
            yield _chunk({"reasoning_content": "Hm. "})
            yield _chunk({"content": "Wrong, wrong"})
            yield {**_chunk({"content": ""}), "replaces": True}
            for piece in ("The right", " answer."):
                yield {**_chunk({"content": piece}), "model": "cloud-1", "route": "cloud"}
            reasons = ["low_confidence: 0.21 of what there is, 0.50 wanted", "<b>odd</b>"]
            end = {"policy": "early_exit", "route": "cloud", "confidence": 0.21, "reasons": reasons, "handoff": "restart"}
            yield {**_chunk({}, "stop", decision=end), "model": "cloud-1", "route": "cloud"}
            return
        if model == "broken":
            yield _chunk({"content": "Half an ans"})
            return
        text = {"hostile": HOSTILE, "senses": "I see and hear it."}.get(model, SHOWCASE)
        if body.get("tools"):
            call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
            yield _chunk({"tool_calls": [call]})
            for piece in ('{"city": ', '"<b>Graz</b>"}'):
                yield _chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
            yield _chunk({}, "tool_calls", timings={"decode_tok_s": 50.0})
        else:
            if model == "script":
                yield _chunk({"reasoning_content": "The reader asks about *water*. "})
                await asyncio.sleep(0.01)
            for i in range(0, len(text), 7):
                yield _chunk({"content": text[i : i + 7]})
            yield _chunk({}, "stop", confidence=0.87, timings={"decode_tok_s": 123.4})
        yield {
            "model": "script-7b",
            "choices": [],
            "usage": {"prompt_tokens": 9, "completion_tokens": 321, "total_tokens": 330},
        }


@contextlib.contextmanager
def serving(host: Host) -> Iterator[Host]:
    """Serves it on a free port of this machine, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(host.app, ws="none", lifespan="off", log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    host.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield host
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
