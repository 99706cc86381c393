"""What one request's answers are judged by: its signals, put before the model's calibration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..types import ChatCompletionRequest, CompletionRequest
from .decision import CalibrationKind, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..backends.base import Delta, FinishReason, Trace
    from .budget import Targets
    from .confidence import Calibration
    from .signals import PromptSignals

__all__ = ["Answer", "RequestJudge", "signals_of"]

Request = ChatCompletionRequest | CompletionRequest


@dataclass(slots=True)
class Answer:
    """What there is of one answer: its text (not what was thought), its calls, and what was noticed of its tokens."""

    texts: list[str] = field(default_factory=list)
    calls: dict[int, tuple[str, list[str]]] = field(default_factory=dict)  # name and pieces of the arguments
    trace: Trace | None = None
    thought: bool = False  # there was reasoning
    finish_reason: FinishReason | None = None

    def add(self, delta: Delta) -> None:
        if delta.reasoning:
            self.thought = True
        elif delta.text:
            self.texts.append(delta.text)
        call = delta.tool_call
        if call is not None:
            self.calls.setdefault(call.index, (call.name or "", []))[1].append(call.arguments)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def judged_text(self) -> str:
        """The text, and what it calls."""
        called = [f"{name}({''.join(parts)})" for name, parts in self.calls.values()]
        return "\n".join([*([self.text] if self.texts else []), *called])


class RequestJudge:
    """A `policies.Judge` over one request. The confidence of several answers is their mean."""

    def __init__(self, request: Request, calibration: Calibration | None, targets: Targets, model: str) -> None:
        self._request = request
        self._calibration = calibration
        self._targets = targets
        self._model = model
        self._prompt: PromptSignals | None = None
        self._lowest: dict[Stage, float] = {}
        self.answers: Sequence[Answer] = ()
        self.strain = 0.0  # what the device's state adds to thresholds

    @property
    def calibration(self) -> CalibrationKind | None:
        if self._calibration is None:
            return None
        return "default" if self._calibration.is_default else "own"

    @property
    def wants_states(self) -> bool:
        """Whether the calibration has a use for hidden states."""
        return self._calibration is not None and self._calibration.has_states_head

    def threshold(self, stage: Stage) -> float:
        assert self._calibration is not None, "without a calibration there is no confidence, and nothing to compare"
        return min(1.0, self._targets.threshold(self._model, self._calibration, stage) + self.strain)

    @property
    def prompt(self) -> PromptSignals:
        if self._prompt is None:
            self._prompt = signals_of(self._request)
        return self._prompt

    def before(self) -> float | None:
        if self._calibration is None:
            return None
        return self._noted("before", self._calibration.before(self.prompt))

    def during(self) -> float | None:
        found = [
            self._calibration.during(self.prompt, answer.trace, answer.judged_text)
            for answer in self.answers
            if self._calibration is not None and answer.trace is not None and len(answer.trace)
        ]
        return self._noted("during", sum(found) / len(found)) if found else None

    def after(self) -> float | None:
        calibration, found = self._calibration, []
        for answer in self.answers:
            trace = answer.trace
            if calibration is None or trace is None or not len(trace):
                return None
            states = None if trace.read_states is None or not calibration.has_states_head else trace.read_states()
            valid = _valid(self._request, answer)
            found.append(calibration.after(self.prompt, trace, answer.judged_text, states=states, valid=valid))
        return self._noted("after", sum(found) / len(found)) if found else None

    def _noted(self, stage: Stage, confidence: float) -> float:
        self._lowest[stage] = min(confidence, self._lowest.get(stage, 1.0))
        return confidence

    def report(self) -> None:
        """Tells the targets what this request's confidences were."""
        for stage, confidence in self._lowest.items():
            self._targets.observe(self._model, stage, confidence)
        self._lowest.clear()


def signals_of(request: Request) -> PromptSignals:
    """What the request's text says."""
    from .signals import PromptSignals

    if isinstance(request, CompletionRequest):
        first = request.prompts[0] if request.prompts else ""
        return PromptSignals.of(first if isinstance(first, str) else "")
    messages = [{"role": message.role, "content": _text(message.content)} for message in request.messages]
    form = request.response_format
    schema = (form is not None and form.type != "text") or request.guided_json is not None
    return PromptSignals.of(messages, tools=bool(request.tools or request.functions), schema=schema)


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(getattr(part, "text", None) or "" for part in content)


def _valid(request: Request, answer: Answer) -> bool | None:
    """Whether the answer has the form that was asked for; None if none was."""
    if answer.calls and isinstance(request, ChatCompletionRequest):
        known = {tool.function.name: tool.function.parameters or {} for tool in request.tools or ()}
        known |= {function.name: function.parameters or {} for function in request.functions or ()}
        return all(_fits(name, "".join(parts), known) for name, parts in answer.calls.values())
    form = request.response_format
    if request.guided_json is not None or (form is not None and form.type in ("json_object", "json_schema")):
        return _is_json(answer.text)
    return None


def _fits(name: str, arguments: str, known: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a call names a function that was offered, and gives what it requires."""
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return False
    if name not in known or not isinstance(given, dict):
        return False
    required, properties = known[name].get("required"), known[name].get("properties")
    lacks = isinstance(required, list) and any(each not in given for each in required)
    strange = isinstance(properties, dict) and properties and any(each not in properties for each in given)
    return not lacks and not strange


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
