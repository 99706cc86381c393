"""`client.embeddings`: texts as vectors, in OpenAI's two encodings."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar

from ._drive import Driver
from ._exchange import Work
from .backends.base import EmbeddingReply
from .types import Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Unpack

__all__ = ["EmbeddingWork", "Embeddings"]

_Vectors = TypeVar("_Vectors", covariant=True)


class EmbeddingWork(Work[EmbeddingReply, EmbeddingResponse, Any]):
    """Work whose reply are vectors."""

    def __init__(
        self,
        request: EmbeddingRequest,
        start: Callable[[Callable[[], bool]], EmbeddingReply],
        begin: Callable[[Work[Any, Any, Any]], None],
        end: Callable[[Work[Any, Any, Any]], None],
    ) -> None:
        """`start` is given what says whether the work was cancelled: all of it is done there."""
        given_up = threading.Event()
        super().__init__(lambda: start(given_up.is_set), begin, end)
        self._given_up = given_up
        self._request = request

    def cancel(self) -> None:
        self._given_up.set()
        super().cancel()

    def result(self) -> EmbeddingResponse:
        assert self._reply is not None, "open() comes first"
        reply = self._reply
        try:
            as_bytes = self._request.encoding_format == "base64"
            data = [
                Embedding(
                    index=i,
                    embedding=base64.b64encode(row.astype("<f4").tobytes()).decode() if as_bytes else row.tolist(),
                )
                for i, row in enumerate(reply.vectors)
            ]
            usage = EmbeddingUsage(prompt_tokens=reply.prompt_tokens, total_tokens=reply.prompt_tokens)
            return EmbeddingResponse(data=data, model=reply.model, usage=usage, route=reply.route, backend=reply.backend)
        finally:
            self.close()


class _Core(Protocol):
    def embed(self, fields: Mapping[str, Any]) -> EmbeddingWork: ...


class EmbeddingOptions(TypedDict, total=False):
    """Options. See `cactus_py.types.EmbeddingRequest` for ranges and meaning."""

    dimensions: int | None
    encoding_format: Literal["float", "base64"] | None
    user: str | None
    truncate: bool
    route: Literal["auto", "local", "cloud"]
    privacy: Literal["local_only"] | None
    timeout: float | None


class Embeddings(Generic[_Vectors]):
    """`client.embeddings`"""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self._core = core
        self._driver = driver

    def create(
        self,
        *,
        input: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        model: str | None = None,
        **options: Unpack[EmbeddingOptions],
    ) -> _Vectors:
        """One vector of length 1 for each text; texts of like meaning point the same way.

        Raises InvalidRequestError (its `param` names the field), ContextLengthError for a text longer than the model's context
        unless truncate=True, UnsupportedModelError for a model that makes none, and what loading the model raises.
        """
        fields = {"input": input, "model": model, **options}
        result: _Vectors = self._driver.whole(lambda: self._core.embed(fields))
        return result
