"""The server against its own description: nothing that schemathesis makes of /openapi.json ends in a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from server_process import ServerProcess

PATHS = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/models",
    "/v1/models/{model}",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/stats",
}


@pytest.fixture(scope="session")
def api(server: ServerProcess) -> Any:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


def test_no_request_is_answered_with_5xx(api: Any) -> None:
    seen, statuses = set(), []
    for result in api.get_all_operations():
        operation = result.ok()
        seen.add(operation.path)

        @seed(7)
        @settings(
            max_examples=15, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body.pop("timeout", None)  # a request may ask for less time than it needs: then 504 is right
                limits = [name for name in ("max_tokens", "max_completion_tokens") if name in case.body]
                for name in limits or ["max_tokens"]:
                    if not limits or (isinstance(case.body[name], int) and case.body[name] > 3):
                        case.body[name] = 3
            reply = case.call(timeout=60)
            statuses.append(reply.status_code)
            assert reply.status_code < 500, reply.text
            if reply.status_code >= 400:
                assert set(reply.json()["error"]) == {"message", "type", "param", "code"}

        ask()
    assert seen >= PATHS and {200, 400} <= set(statuses)


def test_every_path_is_described(api: Any, server: ServerProcess) -> None:
    import httpx

    description = httpx.get(server.url + "/openapi.json").json()
    assert set(description["paths"]) >= PATHS
    text = str(description)
    for path in PATHS & {path for path, item in description["paths"].items() if "post" in item}:
        operation = description["paths"][path]["post"]
        assert operation["requestBody"]["required"] and "200" in operation["responses"]
    names = {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(description["components"]["schemas"]), "every reference leads somewhere"
