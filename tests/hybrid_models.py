"""A device and a cloud for tests: two tiny models that say different things, and calibrations made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tiny_models import scripted_llama

from cactus_py.backends.base import Delta, Reply, ReplyStats, Trace
from cactus_py.routing import signals

DEVICE = ("Ġthe", "Ġlittle", "Ġriver", "Ġcarried", "Ġcopper", "Ġand", "Ġsilver", "Ġunder", "Ġevery", "Ġstone", "Ġbridge")
CLOUD = ("Ġthey", "Ġlistened", "Ġbefore", "Ġmorning", "Ġwhen", "Ġyellow", "Ġwater", "Ġwas", "Ġnever", "Ġquiet")
DEVICE_SAYS, CLOUD_SAYS = ("".join(words).replace("Ġ", " ").strip() for words in (DEVICE, CLOUD))
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"


def device_model(folder: Path) -> Path:
    """Says DEVICE_SAYS to everything."""
    return _model(folder / "device.gguf", DEVICE)


def cloud_model(folder: Path) -> Path:
    """Says CLOUD_SAYS."""
    return _model(folder / "cloud.gguf", CLOUD)


def _model(path: Path, words: tuple[str, ...]) -> Path:
    return scripted_llama(path, ["<|im_start|>", *words, "<|im_end|>"], special={}, template=TEMPLATE)


def write_calibration(home: Path, *, before: float = 0.9, during: float = 0.9, after: float = 0.9, falls_at: int = 0) -> None:
    """The default calibration of a home: these confidences for every answer. falls_at: `during` is 0.9 for fewer tokens."""
    flat = {"x": [0.0], "y": [0.5]}
    heads: dict[str, Any] = {"before": _head(before), "during": _head(during), "after": _head(after)}
    if falls_at:
        place = signals.FEATURES.index("log_tokens")
        at = math.log(falls_at - 0.5)
        heads["during"] = _head(during, place, {"x": [at - 1e-3, at + 1e-3], "y": [0.9, during]})
    document = {
        "format": "cactus-py calibration",
        "version": 1,
        "signals": signals.VERSION,
        "model": "default",
        "is_default": True,
        "note": "made by hand for a test",
        "heads": heads,
        "baselines": dict.fromkeys(("mean_logprob", "entropy", "margin"), flat),
    }
    folder = home / "catalog"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "default.calibration.json").write_text(json.dumps(document))


def _head(value: float, place: int = 0, curve: dict[str, list[float]] | None = None) -> dict[str, Any]:
    member = {"kind": "linear", "weight": 1, "features": [place], "low": [0], "high": [1000], "mean": [0], "scale": [1]}
    member |= {"weights": [1.0 if curve else 0.0], "bias": 0.0}
    return {
        "members": [member],
        "curve": curve or {"x": [0.0], "y": [value]},
        "scores": [0.0, 1.0],
        "kept": [0.5, 0.5],
    }


class Slowly(Reply):
    """A local reply whose tokens come one by one, however fast they were made: what watches it sees each of them."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.model, self.backend, self.route = reply.model, reply.backend, reply.route
        self._deltas = iter(reply.rest())
        self.traces = [Trace(trace.prompt_tokens) for trace in reply.traces]

    def __next__(self) -> Delta:
        delta = next(self._deltas)
        whole, trace = self._reply.traces[delta.index], self.traces[delta.index]
        until = len(whole) if delta.finish_reason is not None else min(len(whole), len(trace) + 1)
        for i in range(len(trace), until):
            trace.add(whole.ids[i], whole.logprobs[i], whole.entropies[i], whole.margins[i])
        trace.finish_reason = delta.finish_reason
        return delta

    def cancel(self) -> None:
        self._deltas = iter(())

    def close(self) -> None:
        self._reply.close()

    @property
    def stats(self) -> ReplyStats:
        n = sum(len(trace) for trace in self.traces)
        return ReplyStats(prompt_tokens=self._reply.stats.prompt_tokens, completion_tokens=n)
