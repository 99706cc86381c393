"""The router: takes a request to what answers it. Names become models here, and pipelines run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from .. import hub
from ..errors import ConfigError, InvalidRequestError, UnknownModelError
from ..types import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, ModelCard, TranscriptionRequest, parse_request
from .names import Names
from .pipeline import Pipeline

if TYPE_CHECKING:
    from ..backends.base import Backend, EmbeddingReply, LoadedInfo, Reply, SpokenText, TraceKind
    from ..config import Settings, StepSettings
    from ..engine import EngineActivity
    from ..types import TranslationRequest
    from .hybrid import Hybrid

__all__ = ["Router", "routes"]

Request = TypeVar("Request", bound=Any)


def routes(settings: Settings) -> tuple[Names, Mapping[str, Pipeline]]:
    """The names and pipelines of a configuration. Raises ConfigError where they contradict each other."""
    pipelines = {name: Pipeline(name, steps) for name, steps in settings.pipelines.items()}
    names = Names(settings.aliases, pipelines)
    for name, pipeline in pipelines.items():
        for step in pipeline.steps:
            if any(target in pipelines for target in names.targets(step.model)):
                raise ConfigError(f'the pipeline "{name}" has the step "{step.model}", a pipeline itself; name models instead')
    return names, pipelines


class Router:
    """Has a backend's methods, for every name that a request may use."""

    def __init__(
        self, backend: Backend, settings: Settings, names: Names, pipelines: Mapping[str, Pipeline], hybrid: Hybrid
    ) -> None:
        """names, pipelines: what `routes` makes of the settings."""
        self._backend = backend
        self._hybrid = hybrid
        self._traces = "trace" in signature(backend.chat).parameters  # what was written before there were traces has none
        self._default = settings.model  # of requests that name none
        self._home = settings.home
        self._names = names
        self._pipelines = pipelines
        self._hearing: dict[str, bool] = {}  # whether a model transcribes

    # ---- requests ----

    def chat(self, request: ChatCompletionRequest) -> Reply:
        """Starts a reply to a conversation."""
        name = self._names.resolve(request.model or self._default, request.user)
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            return self._hybrid.generate(
                request, name, lambda asked, trace: self._backend.chat(_for(name, asked), **self._noticing(trace))
            )
        if request.route == "cloud":
            raise InvalidRequestError(f'"{name}" is a pipeline, which runs on the device', "route")
        first = pipeline.steps[0]
        return pipeline.chat(
            request,
            hears=first.task == "transcribe" or (first.task is None and self._hears(first.model)),
            start=lambda step: self._backend.chat(self._resolved(step)),
            transcribe=partial(self._transcribe, request),
        )

    def complete(self, request: CompletionRequest) -> Reply:
        """Starts a continuation of plain prompts."""
        resolved = self._resolved(request)
        name = resolved.model or self._default
        return self._hybrid.generate(
            resolved, name, lambda asked, trace: self._backend.complete(asked, **self._noticing(trace))
        )

    def embed(self, request: EmbeddingRequest, cancelled: Callable[[], bool] | None = None) -> EmbeddingReply:
        """Embeds texts."""
        if request.route == "cloud":
            return self._hybrid.embed(request, cancelled)
        return self._backend.embed(request if request.model is None else self._resolved(request), cancelled)

    def transcribe(self, request: TranscriptionRequest | TranslationRequest, audio: bytes) -> SpokenText:
        """Writes down speech."""
        if request.route == "cloud":
            return self._hybrid.transcribe(request, audio)
        return self._backend.transcribe(self._resolved(request) if request.model else request, audio)

    def _noticing(self, trace: TraceKind) -> dict[str, Any]:
        """The argument that asks a backend for traces, if it knows them."""
        return {"trace": trace} if self._traces else {}

    def _resolved(self, request: Request) -> Request:
        """The request with the name of a model. Raises InvalidRequestError for a pipeline."""
        name = self._names.resolve(request.model or self._default, getattr(request, "user", None))
        if name in self._pipelines:
            raise InvalidRequestError(f'"{name}" is a pipeline; pipelines answer chat requests only', "model")
        return _for(name, request)

    def _transcribe(
        self, request: ChatCompletionRequest, step: StepSettings, sound: bytes, seconds: float | None
    ) -> SpokenText:
        fields = {"model": self._names.resolve(step.model, request.user), "language": step.language, "timeout": seconds}
        return self._backend.transcribe(parse_request(TranscriptionRequest, fields), sound)

    def _hears(self, model: str) -> bool:
        """Whether a model transcribes, as far as its card or the catalog says."""
        if model not in self._hearing:
            for name in self._names.targets(model):
                card = next((card for card in self._backend.models() if name == card.id or name in card.aliases), None)
                if card is not None and card.capabilities:
                    self._hearing[model] = "transcription" in card.capabilities
                    continue
                entry = hub.Catalog.load(hub.Store(self._home).home).get(hub.split_pin(name)[0])
                self._hearing[model] = hub.is_model_folder(name) if entry is None else entry.transcribes
        return self._hearing[model]

    # ---- models ----

    def models(self) -> list[ModelCard]:
        """The backend's models, and the names of the configuration."""
        cards = self._backend.models()
        for name in self._names.aliases:
            targets = self._names.targets(name)
            if len(targets) == 1:
                for card in cards:
                    if targets[0] == card.id or targets[0] in card.aliases:
                        card.aliases.append(name)
        given = {name: self._names.targets(name) for name in self._names.aliases}
        given |= {name: [step.model for step in pipeline.steps] for name, pipeline in self._pipelines.items()}
        return sorted([*(self._card(name, targets, cards) for name, targets in given.items()), *cards], key=_id)

    def _card(self, name: str, targets: list[str], cards: list[ModelCard]) -> ModelCard:
        found = [card for target in targets for card in cards if target == card.id or target in card.aliases]
        if self._names.targets(name)[0] in self._pipelines:
            return ModelCard(id=name, targets=targets, capabilities=["chat"])
        common = [what for what in (found[0].capabilities if found else []) if all(what in card.capabilities for card in found)]
        same = found[0].model_dump(include={"context", "quantisation", "sha256", "created"}) if len(found) == 1 else {}
        return ModelCard(id=name, targets=targets, capabilities=common, loaded=any(card.loaded for card in found), **same)

    def warm_up(self, model: str | None = None) -> None:
        """Loads every model that a name may lead to."""
        for name in self._models_of(model or self._default):
            self._backend.warm_up(name)

    def unload(self, model: str, timeout_s: float | None = None) -> bool:
        """Closes every model that a name may lead to; whether any was loaded."""
        return any([self._backend.unload(name, timeout_s) for name in self._models_of(model)])

    def loaded(self) -> list[LoadedInfo]:
        """What is loaded now."""
        return self._backend.loaded()

    def activity(self) -> dict[str, EngineActivity]:
        """What our engine does for each loaded model."""
        return self._backend.activity()

    def find(self, name: str) -> ModelCard:
        """The card of one name. Raises UnknownModelError."""
        cards = self.models()
        found = next((card for card in cards if name == card.id), None)
        found = found or next((card for card in cards if name in card.aliases), None)
        if found is None:
            names = ", ".join(card.id for card in cards) or "none"
            raise UnknownModelError(f'there is no model "{name}" on this machine; there are: {names}', name=name)
        return found

    def _models_of(self, name: str) -> list[str]:
        """All models behind a name."""
        found: list[str] = []
        for target in self._names.targets(name):
            pipeline = self._pipelines.get(target)
            steps = () if pipeline is None else pipeline.steps
            found += [one for step in steps for one in self._names.targets(step.model)] if steps else [target]
        return list(dict.fromkeys(found))


def _id(card: ModelCard) -> str:
    return card.id


def _for(name: str, request: Request) -> Request:
    """The request, asking for this model."""
    asked: Request = request if name == request.model else request.model_copy(update={"model": name})
    return asked
