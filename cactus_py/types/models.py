"""GET /v1/models: what can be asked for as `model`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ._base import ResponseModel

__all__ = ["ModelCard", "ModelList"]


class ModelCard(ResponseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "local"
    aliases: list[str] = Field(default_factory=list)
    """other names that requests may use; this and what follows is ours"""
    targets: list[str] = Field(default_factory=list)
    """what the name leads to, where it is not a model itself: those of an alias, or the steps of a pipeline"""
    capabilities: list[str] = Field(default_factory=list)
    """of "chat", "completions", "embeddings" and "transcription" """
    context: int | None = None
    """longest sequence in tokens"""
    quantisation: str | None = None
    sha256: str | None = None
    """of the file, where it is known"""
    loaded: bool = False


class ModelList(ResponseModel):
    """All models that are there."""

    object: Literal["list"] = "list"
    data: list[ModelCard] = Field(default_factory=list)
