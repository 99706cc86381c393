"""What can be checked of a finished file: whether the engine loads it, and whether it computes what transformers computes."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cactus_py.errors import CactusError, EngineError, UnsupportedModelError

if TYPE_CHECKING:
    from cactus_py.hub.conversion import Conversion

_COMPARED_PARAMETERS = 200_000_000
_N_TOKENS = 16
# Root mean square of the distance of scores, as a share of their deviation, that rounding of weights and activations explains
# even in very small models; rows or heads in a wrong order make it more than 1.
_TOLERANCE = {"F32": 0.01, "F16": 0.02, "BF16": 0.1, "Q8_0": 0.4}


def check(result: Conversion, source: Path) -> list[str]:
    """One sentence for each thing that was checked, or could not be. Raises EngineError if the file is wrong."""
    engine = importlib.import_module("cactus_py.engine")
    try:
        model = engine.Model.load(result.path, threads=None, context=64)
    except (UnsupportedModelError, EngineError) as error:  # not this engine's, or none is installed
        return [f"Not checked by running it: {_sentence(error)}"]
    except CactusError as error:
        raise EngineError(f"{result.path} was written, but the engine refuses it: {error}") from error
    with model:
        said = ["The engine loads it."]
        if result.n_parameters > _COMPARED_PARAMETERS:
            return said
        if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
            return [*said, "Its numbers were not compared: transformers and torch are not installed."]
        return [*said, _compared(model, result, source)]


def _compared(model: Any, result: Conversion, source: Path) -> str:
    import numpy as np

    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    kind = "AutoModelForCausalLM" if model.info.generates else "AutoModel"
    n_vocab = model.tokenizer.info.n_vocab
    ids = [int(token) for token in np.random.default_rng(0).integers(0, n_vocab, _N_TOKENS)]
    try:
        reference = (
            getattr(transformers, kind)
            .from_pretrained(source, torch_dtype=torch.float32, local_files_only=True, trust_remote_code=False)
            .eval()
        )
        with torch.no_grad():
            if model.info.generates:
                wanted = reference(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
            else:
                wanted = reference(torch.tensor([ids])).last_hidden_state[0].mean(dim=0, keepdim=True).float().numpy()
    except Exception as error:  # another library's own reasons: a class that it does not know, a file that it wants
        return f"Its numbers were not compared: transformers cannot load the checkpoint ({type(error).__name__})."
    found = model.logits(ids) if model.info.generates else model.embed_ids([ids], normalise=False, pooling="mean")
    n_both = min(found.shape[1], wanted.shape[1])
    distance = found[:, :n_both].astype(np.float64) - wanted[:, :n_both]
    share = float(np.sqrt(np.mean(distance**2)) / max(float(wanted.std()), 1e-9))
    if share > _TOLERANCE.get(result.type, 1.0):
        raise EngineError(
            f"{result.path} was written, but its scores differ from those of transformers by {share:.3f} of their deviation."
        )
    what = "scores" if model.info.generates else "embeddings"
    return f"Its {what} for {_N_TOKENS} tokens agree with transformers (RMS distance {share:.1e} of their deviation)."


def _sentence(error: Exception) -> str:
    text = str(error)
    return text if text.endswith(".") else text + "."
