"""The wire format: pydantic models of OpenAI's requests and replies, with a few fields of our own."""

from __future__ import annotations

from ._base import RequestModel, ResponseModel, parse_request
from .audio import (
    DurationUsage,
    SpeechRequest,
    Transcription,
    TranscriptionRequest,
    TranscriptionSegment,
    TranscriptionStreamEvent,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
    TranscriptionWord,
    Translation,
    TranslationRequest,
    TranslationVerbose,
)
from .chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionRequest,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    TokenLogprob,
    TopLogprob,
)
from .common import (
    CompletionTokensDetails,
    CompletionUsage,
    GenerationRequest,
    PromptTokensDetails,
    StreamOptions,
    Timings,
)
from .completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from .models import ModelCard, ModelList

__all__ = [
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "ChatCompletionRequest",
    "Choice",
    "ChoiceDelta",
    "ChoiceLogprobs",
    "ChunkChoice",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "CompletionRequest",
    "CompletionTokensDetails",
    "CompletionUsage",
    "DurationUsage",
    "GenerationRequest",
    "ModelCard",
    "ModelList",
    "PromptTokensDetails",
    "RequestModel",
    "ResponseModel",
    "SpeechRequest",
    "StreamOptions",
    "Timings",
    "TokenLogprob",
    "TopLogprob",
    "Transcription",
    "TranscriptionRequest",
    "TranscriptionSegment",
    "TranscriptionStreamEvent",
    "TranscriptionTextDeltaEvent",
    "TranscriptionTextDoneEvent",
    "TranscriptionVerbose",
    "TranscriptionWord",
    "Translation",
    "TranslationRequest",
    "TranslationVerbose",
    "parse_request",
]
