"""The names that requests may use for models: aliases, weighted splits between models, pinned versions, pipelines.

An alias stands for another name, which may be an alias again. A split stands for several, each with a weight:

    aliases = {"gpt-4o-mini": "smollm2-135m-instruct", "trial": {"gpt-4o-mini": 0.9, "qwen2.5": 0.1}}

Which one a request gets is drawn, or, where it names a `user`, follows from that alone: the same user meets the same model, in
every process and after a restart. Each target draws a lot from the user's name (rendezvous hashing, weighted as by
Schindelhauer and Schomaker, 2005), so that a change of weights or a new target moves no more users than it must.

`NAME@SHA` asks for the file whose SHA-256 begins so. On an alias the pin goes on to the name it stands for; the backend checks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from random import random

from ..errors import ConfigError, InvalidRequestError

__all__ = ["Names"]


class Names:
    """Resolves names. Immutable, and free of everything but text."""

    def __init__(self, aliases: Mapping[str, str | Mapping[str, float]], pipelines: Collection[str] = ()) -> None:
        """Raises ConfigError about an alias that leads back to itself, has no usable weight, or is also a pipeline."""
        self.aliases = dict(aliases)
        self.pipelines = frozenset(pipelines)
        for name, target in self.aliases.items():
            if name in self.pipelines:
                raise ConfigError(f'the name "{name}" is both an alias and a pipeline; rename one of them')
            if "@" in name:
                raise ConfigError(f'the alias "{name}" holds an @, which pins a version; give it another name')
            if not isinstance(target, str):
                _check_weights(name, target)
        for name in self.aliases:
            self._refuse_loops(name, [])

    def resolve(self, name: str, user: str | None = None) -> str:
        """The name of a model or of a pipeline. Raises InvalidRequestError where a pin means nothing."""
        base, at, pin = name.rpartition("@")
        if name not in self.aliases and at and (base in self.aliases or base in self.pipelines):
            return self._pinned(base, pin)
        while name in self.aliases:
            target = self.aliases[name]
            name = target if isinstance(target, str) else _draw(name, target, user)
        return name

    def targets(self, name: str) -> list[str]:
        """All names of models and pipelines that `resolve` may answer with, in the order of the configuration."""
        target = self.aliases.get(name)
        if target is None:
            return [self.resolve(name)]
        following = [target] if isinstance(target, str) else [one for one, weight in target.items() if weight > 0]
        return list(dict.fromkeys(found for one in following for found in self.targets(one)))

    def is_split(self, name: str) -> bool:
        """Whether requests for this name go to more than one model."""
        return len(self.targets(name)) > 1

    def _pinned(self, base: str, pin: str) -> str:
        found = self.targets(base)
        if len(found) > 1:
            raise InvalidRequestError(f'"{base}" is a split between models; a pinned version names one model', "model")
        if found[0] in self.pipelines:
            raise InvalidRequestError(f'"{base}" is a pipeline; a pinned version names one model', "model")
        if "@" in found[0]:
            raise InvalidRequestError(f'"{base}" stands for {found[0]}, which is pinned already', "model")
        return f"{found[0]}@{pin}"

    def _refuse_loops(self, name: str, path: list[str]) -> None:
        if name in path:
            chain = " -> ".join([*path[path.index(name) :], name])
            raise ConfigError(f'the alias "{name}" leads back to itself ({chain}); let it end at a model')
        for following in _following(self.aliases.get(name)):
            self._refuse_loops(following, [*path, name])


def _following(target: str | Mapping[str, float] | None) -> Iterator[str]:
    if isinstance(target, str):
        yield target
    elif target is not None:
        yield from target


def _check_weights(name: str, weights: Mapping[str, float]) -> None:
    for target, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ConfigError(f'the alias "{name}" gives {target} the weight {weight}; a weight is a number from 0 upwards')
    if not any(weight > 0 for weight in weights.values()):
        raise ConfigError(f'the alias "{name}" gives no model a weight above 0')


def _draw(name: str, weights: Mapping[str, float], user: str | None) -> str:
    """One of the targets: each draws an exponential variate of its weight's rate, and the smallest wins."""

    def lot(target: str) -> float:
        if user is None:
            uniform = 1.0 - random()
        else:
            digest = hashlib.sha256("\0".join((name, target, user)).encode("utf-8", "surrogatepass")).digest()
            uniform = (int.from_bytes(digest[:7], "big") + 1) / (1 << 56)
        return -math.log(uniform) / weights[target]

    return min((target for target, weight in weights.items() if weight > 0), key=lot)
