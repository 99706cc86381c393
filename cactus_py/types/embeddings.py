"""POST /v1/embeddings: texts as vectors."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ._base import RequestModel, ResponseModel
from .common import StrictBool, StrictFloat, StrictInt, StrictStr, _check_unicode

__all__ = ["Embedding", "EmbeddingRequest", "EmbeddingResponse", "EmbeddingUsage"]

MAX_INPUTS = 2048


class EmbeddingRequest(RequestModel):
    """One text or several, each as text or as token ids. `inputs` has them all, in one form.

    The fields down to `user` are OpenAI's. `dimensions`: only so many numbers of each vector, made to length 1 again.
    `truncate`: of a text that is too long only the beginning counts, instead of an error.
    """

    input: Any
    model: Annotated[StrictStr, Field(min_length=1)] | None = None
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: StrictStr | None = None

    truncate: StrictBool = False
    route: Literal["auto", "local", "cloud"] = "auto"
    privacy: Literal["local_only"] | None = None
    timeout: Annotated[StrictFloat, Field(gt=0)] | None = None

    @field_validator("encoding_format", mode="before")
    @classmethod
    def _none_is_float(cls, value: Any) -> Any:
        return "float" if value is None else value

    @field_validator("input")
    @classmethod
    def _input_is_text_or_ids(cls, value: Any) -> str | list[str] | list[int] | list[list[int]]:
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, (list, tuple)):
            items = [list(item) if isinstance(item, tuple) else item for item in value]
            if not items:
                raise ValueError("the list of texts is empty")
            if all(_is_id(item) for item in items):
                return items
            if len(items) > MAX_INPUTS:
                raise ValueError(f"at most {MAX_INPUTS} texts are possible in one request, not {len(items)}")
            if all(isinstance(item, str) for item in items):
                return [_text(str(item)) for item in items]
            if all(isinstance(item, list) and item and all(_is_id(token) for token in item) for item in items):
                return items
        raise ValueError("should be a string, a list of strings, a list of token ids, or a list of lists of token ids")

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """Every text of the request, all as text or all as token ids."""
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if _is_id(self.input[0]) else list(self.input)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _text(value: str) -> str:
    if not value:
        raise ValueError("a text may not be empty")
    return _check_unicode(value)


class Embedding(ResponseModel):
    """The vector of one text: its numbers, or with encoding_format="base64" their bytes (float32, little-endian)."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str

    @property
    def values(self) -> list[float]:
        """The numbers, however they came."""
        if isinstance(self.embedding, str):
            return list(memoryview(base64.b64decode(self.embedding)).cast("f"))
        return self.embedding


class EmbeddingUsage(ResponseModel):
    """Tokens that were read."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingResponse(ResponseModel):
    """The vectors of all texts, in their order. `route` and `backend` are ours."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage

    route: Literal["local", "cloud"] = "local"
    backend: str | None = None
