"""The engine against golden models: transformers' scores for the same weights, and the same bits however they are computed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gguf_edit
import numpy as np
import pytest
from gguf_edit import F32, U32
from numpy.typing import NDArray
from packed import unpacked

from cactus_py.engine import Model, kernels_available

KERNELS = kernels_available()
ZOO = Path(__file__).parent / "data" / "zoo"
QUANTISED = ["Q2_K", "Q3_K_M", "Q4_K_M", "TQ1_0"]
TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"]
VARIANTS = ["linear", "yarn", "yarn-attn", "bias", "untied-gqa", "odd"]
ABOUT: dict[str, dict[str, Any]] = json.loads((ZOO / "decoders" / "index.json").read_text(encoding="utf-8"))["models"]
ARCHITECTURES = list(ABOUT)
SUFFIXES = ["", "_1", "_long"]
MAIN_TYPES = {"mixed": "Q4_0"} | {kind: kind.removesuffix("_M") for kind in QUANTISED} | {kind: kind for kind in TYPES}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
EOS = 1  # of every model in decoders/

# transformers and llama.cpp differ by up to 9e-5 on these files: the order of sums. Twice that, still far below any slip
# (test_metadata_matters), and below half the gap of the two best scores except at one position of "yarn".
TOLERANCE = 2e-4
TOLERANCE_LLAMA = 1e-4


def files(zoo: Path) -> dict[str, Path]:
    """Every model file by a short name."""
    named = {"llama": zoo / "llama" / "llama.f32.gguf"}
    named |= {kind: zoo / "llama-quant" / f"llama-quant.{kind}.gguf" for kind in QUANTISED}
    named |= {name: zoo / "llama-variants" / f"{name}.gguf" for name in ["mixed", *TYPES]}
    named |= {name: zoo / "llama-variants" / f"{name}.gguf.xz" for name in VARIANTS}
    return named | {name: zoo / "decoders" / f"{name}.gguf.xz" for name in ARCHITECTURES}


ALL_FILES = list(files(ZOO))


def model_file(zoo: Path, name: str) -> Path:
    """The file of that name, ready to be opened."""
    return unpacked(files(zoo)[name])


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Model]:
    """A model on two threads, closed at the end."""
    with closing(Model.load(path, **({"threads": 2} | options))) as model:
        yield model


def tokens_of(zoo: Path, name: str, suffix: str = "") -> list[int]:
    """The golden token ids that belong to a file."""
    return [int(token) for token in golden(zoo, name)[f"tokens{suffix}"]]


def golden(zoo: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays that belong to a file."""
    if name == "llama":
        path = zoo / name / f"{name}.npz"
    elif name in QUANTISED:
        path = zoo / "llama-quant" / "llama-quant.npz"
    else:
        path = zoo / ("decoders" if name in ABOUT else "llama-variants") / f"{name}.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def longest_tokens(zoo: Path, name: str) -> list[int]:
    """The longest golden sequence of a file."""
    arrays = golden(zoo, name)
    return [int(token) for token in arrays.get("tokens_long", arrays["tokens"])]


def assert_same_argmax(ours: NDArray[np.float32], wanted: NDArray[np.float32], tolerance: float) -> None:
    """The best token agrees wherever the two best scores are further apart than both may be off."""
    ordered = np.sort(wanted, axis=-1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    assert clear.sum() >= len(clear) - 1
    assert np.array_equal(ours.argmax(-1)[clear], wanted.argmax(-1)[clear])


# ---- against transformers ----


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["llama", *VARIANTS])
def test_float_models_match_transformers(zoo: Path, name: str, kernels: str) -> None:
    """Scores of every position, read in one batch and one token at a time."""
    tolerance = TOLERANCE_LLAMA if name == "llama" else TOLERANCE
    arrays = golden(zoo, name)
    with opened(model_file(zoo, name), kernels=kernels) as model:
        for suffix in (s for s in SUFFIXES if f"tokens{s}" in arrays):
            wanted = arrays[f"logits{suffix}"]
            for chunk in (0, 1):
                ours = model.logits(tokens_of(zoo, name, suffix), chunk=chunk)
                assert ours.dtype == np.float32 and ours.shape == wanted.shape
                assert np.abs(ours - wanted).max() < tolerance, (suffix, chunk)
                assert_same_argmax(ours, wanted, tolerance)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "gpt-oss-mxfp4"])
def test_architectures_match_transformers(zoo: Path, name: str, kernels: str) -> None:
    """As above, for one tiny model of each kind: part of the scores of every position, and which is the best."""
    arrays = golden(zoo, name)
    with opened(model_file(zoo, name), kernels=kernels) as model:
        for suffix in SUFFIXES:
            ids = tokens_of(zoo, name, suffix)
            wanted, best, gap = (arrays[f"{key}{suffix}"] for key in ("logits", "best", "gap"))
            for chunk in (0, 1):
                ours = model.logits(ids, chunk=chunk)
                assert ours.dtype == np.float32 and len(ours) == len(ids)
                stride = round(ours.shape[1] / wanted.shape[1])
                kept = np.stack([row[t % stride :: stride] for t, row in enumerate(ours)])
                assert np.abs(kept - wanted).max() < TOLERANCE, (suffix, chunk)
                clear = gap > 2 * TOLERANCE
                assert clear.sum() >= len(clear) - 1
                assert np.array_equal(ours.argmax(-1)[clear], best[clear])


def test_architecture_with_mxfp4_experts(zoo: Path) -> None:
    """4-bit experts are multiplied with 8-bit activations: as near to transformers as llama.cpp is."""
    name = "gpt-oss-mxfp4"
    arrays = golden(zoo, name)
    differences = []
    with opened(model_file(zoo, name)) as model:
        for suffix in SUFFIXES:
            wanted = arrays[f"logits{suffix}"]
            ours = model.logits(tokens_of(zoo, name, suffix))
            stride = round(ours.shape[1] / wanted.shape[1])
            differences += [row[t % stride :: stride] - wanted[t] for t, row in enumerate(ours)]
    assert rms(np.concatenate(differences)) <= 1.2 * ABOUT[name]["llama_cpp"]["rms_diff"]


@pytest.mark.parametrize("name", ["deepseek2-lite", "deepseek2"])
def test_latent_attention_of_older_files(zoo: Path, tmp_path: Path, name: str) -> None:
    """Older converters left k_b and v_b in one tensor: every head gets its own keys and values, and the scores are the same."""
    path = model_file(zoo, name)
    gguf = gguf_edit.read(path)
    key = {suffix: f"deepseek2.attention.{suffix}" for suffix in ("key_length", "value_length", "head_count", "head_count_kv")}
    for suffix in ("key_length", "value_length"):
        gguf.set(key[suffix], U32, gguf.values.pop(f"{key[suffix]}_mla").data)
    gguf.set(key["head_count_kv"], U32, gguf.values[key["head_count"]].data)
    for layer in range(gguf.values["deepseek2.block_count"].data):
        parts = []
        for part in ("k_b", "v_b"):
            tensor = gguf.tensor(f"blk.{layer}.attn_{part}.weight")
            parts.append(np.frombuffer(tensor.data, "<f4").reshape(tensor.dims[::-1]))
            gguf.remove_tensor(f"blk.{layer}.attn_{part}.weight")
        joined = np.concatenate([parts[0].transpose(0, 2, 1), parts[1]], 1)  # [heads, keys and values, compressed]
        dims = [joined.shape[2], joined.shape[0] * joined.shape[1]]
        gguf.tensors.append(gguf_edit.Tensor(f"blk.{layer}.attn_kv_b.weight".encode(), dims, 0, joined.astype("<f4").tobytes()))
    older = tmp_path / "older.gguf"
    older.write_bytes(gguf.to_bytes())
    ids = longest_tokens(zoo, name)
    with opened(path) as model, opened(older) as old:
        scores = old.logits(ids)
        assert np.abs(scores - model.logits(ids)).max() < TOLERANCE
        assert np.array_equal(scores, old.logits(ids, chunk=1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_generate_their_best_tokens(zoo: Path, name: str) -> None:
    """What is generated, past window and original context, is what the scores of the text up to there say."""
    ids = tokens_of(zoo, name)
    with opened(model_file(zoo, name)) as model:
        with model.generate(ids, max_tokens=20, sampling=GREEDY) as generation:
            tokens = [event.id for event in generation if event.id is not None]
        assert len(tokens) == 20
        for i, token in enumerate(tokens):
            scores = model.logits(ids + tokens[:i])[-1]
            scores[EOS] = -np.inf  # GREEDY does not let it end
            assert token == scores.argmax(), i


def rms(difference: NDArray[np.float32]) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2)))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_models_are_as_near_as_llama_cpp(zoo: Path, kind: str, kernels: str) -> None:
    """Distance to transformers on the dequantised weights: what 8-bit activations cost, not more than they cost llama.cpp."""
    variant = json.loads((zoo / "llama-quant" / "llama-quant.json").read_text(encoding="utf-8"))["variants"][kind]
    wanted = golden(zoo, kind)[f"logits_{kind}"]
    with opened(model_file(zoo, kind), kernels=kernels) as model:
        ours = model.logits(tokens_of(zoo, kind))
    assert rms(ours - wanted) <= 1.2 * variant["rms_diff"]
    assert np.mean(ours.argmax(-1) == wanted.argmax(-1)) >= variant["argmax_fraction"] - 1.5 / len(wanted)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", TYPES)
def test_types_are_as_near_as_llama_cpp(zoo: Path, kind: str, kernels: str) -> None:
    """As above, for types whose rows need no more than 32 elements: another model, all matrices of one type."""
    entry = json.loads((zoo / "llama-variants" / "index.json").read_text(encoding="utf-8"))["variants"][kind]["llama_cpp"]
    wanted = golden(zoo, kind)["logits"]
    with opened(model_file(zoo, kind), kernels=kernels) as model:
        ours = model.logits(tokens_of(zoo, kind))
    assert rms(ours - wanted) <= 1.2 * entry["rms_diff"]
    assert np.mean(ours.argmax(-1) == wanted.argmax(-1)) >= entry["argmax_fraction"] - 1.5 / len(wanted)


@pytest.mark.parametrize("kernels", KERNELS)
def test_each_tensor_may_have_its_own_type(zoo: Path, kernels: str) -> None:
    """Q8_0, Q4_0, Q4_1, F16, BF16 and F32 in one file, with rows of three and five blocks."""
    entry = json.loads((zoo / "llama-variants" / "index.json").read_text(encoding="utf-8"))["variants"]["mixed"]
    arrays = golden(zoo, "mixed")
    with opened(model_file(zoo, "mixed"), kernels=kernels) as model:
        differences = [model.logits(tokens_of(zoo, "mixed", s)) - arrays[f"logits{s}"] for s in ("", "_long")]
    assert rms(np.concatenate(differences)) <= 1.2 * entry["llama_cpp"]["rms_diff"]


# ---- the same bits however they are computed ----


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ALL_FILES)
def test_chunks_do_not_change_a_bit(zoo: Path, name: str, kernels: str) -> None:
    """A prompt may be cut anywhere: at odd places, across the pages of keys and values, token by token."""
    ids = longest_tokens(zoo, name)
    with opened(model_file(zoo, name), kernels=kernels) as model:
        whole = model.logits(ids)
        for chunk in (1, 2, 3, 7, 16, 31, 32, 33, len(ids) - 1):
            assert np.array_equal(model.logits(ids, chunk=chunk), whole), chunk


@pytest.mark.parametrize("name", ALL_FILES)
def test_kernel_sets_agree_on_every_bit(zoo: Path, name: str) -> None:
    """Each instruction set computes what scalar.c computes."""
    ids = longest_tokens(zoo, name)
    assert "scalar" in KERNELS
    with opened(model_file(zoo, name), kernels="scalar") as model:
        truth = [model.logits(ids, chunk=chunk) for chunk in (0, 1)]
    for kernels in KERNELS:
        with opened(model_file(zoo, name), kernels=kernels) as model:
            for chunk in (0, 1):
                assert np.array_equal(model.logits(ids, chunk=chunk), truth[chunk]), (kernels, chunk)


@pytest.mark.parametrize("name", ["llama", "Q4_1", "odd", "gemma3n"])
def test_threads_and_batch_sizes_do_not_change_a_bit(zoo: Path, name: str) -> None:
    """Neither the number of threads nor the largest step shows in the scores."""
    ids = tokens_of(zoo, name)
    with opened(model_file(zoo, name), threads=1) as model:
        truth = model.logits(ids)
    for options in ({"threads": 2}, {"threads": 3}, {"threads": 2, "batch": 5}, {"threads": 1, "batch": 1}):
        with opened(model_file(zoo, name), **options) as model:
            assert np.array_equal(model.logits(ids), truth), options


@pytest.mark.parametrize("name", ["llama", "yarn"])
def test_half_precision_cache_stays_near(zoo: Path, name: str) -> None:
    """Keys and values in f16 move the scores by their rounding only; F32 models keep f32 unless told otherwise."""
    ids = tokens_of(zoo, name, "_long")
    with opened(model_file(zoo, name)) as model:
        auto = model.logits(ids)
    with opened(model_file(zoo, name), kv_type="f32") as model:
        assert np.array_equal(model.logits(ids), auto)
    with opened(model_file(zoo, name), kv_type="f16") as model:
        half = model.logits(ids)
    assert not np.array_equal(half, auto)
    assert rms(half - auto) < 5e-3 * float(auto.std())


# ---- tokenizer and metadata ----


@pytest.mark.parametrize("name", ["llama"])
def test_prompt_is_tokenised_like_the_reference(zoo: Path, name: str) -> None:
    """Ids of the golden prompt, bos included, and back to the text."""
    about = json.loads((zoo / name / f"{name}.json").read_text(encoding="utf-8"))
    with opened(model_file(zoo, name)) as model:
        assert model.tokenize(about["prompt"], add_special=True) == about["prompt_ids"]
        plain = model.tokenize(about["prompt"], add_special=False)
        assert plain == about["prompt_ids"][1:]
        assert model.detokenize(plain) == about["prompt"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("linear", {"rope.scaling.type": None}),
        ("linear", {"rope.scaling.factor": (F32, 2.0)}),
        ("yarn", {"rope.scaling.factor": (F32, 4.0)}),
        ("yarn", {"rope.scaling.original_context_length": (U32, 256)}),
        ("yarn", {"rope.scaling.attn_factor": (F32, 1.1)}),
        ("yarn-attn", {"rope.scaling.attn_factor": None}),
        ("yarn-attn", {"rope.freq_base": None}),
        ("untied-gqa", {"rope.freq_base": (F32, 10000.0)}),
        ("untied-gqa", {"attention.layer_norm_rms_epsilon": (F32, 1e-2)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_metadata_matters(zoo: Path, tmp_path: Path, name: str, change: dict[str, tuple[int, Any] | None]) -> None:
    """The golden scores are sensitive to each of these values: a reader that ignored one would fail the tests above."""
    gguf = gguf_edit.read(model_file(zoo, name))
    for key, value in change.items():
        if value is None:
            del gguf.values[f"llama.{key}"]
        else:
            gguf.set(f"llama.{key}", *value)
    if change == {"rope.scaling.type": None}:
        del gguf.values["llama.rope.scaling.factor"]
    path = tmp_path / "changed.gguf"
    path.write_bytes(gguf.to_bytes())
    wanted = golden(zoo, name)["logits_long"]
    with opened(path) as model:
        assert np.abs(model.logits(tokens_of(zoo, name, "_long")) - wanted).max() > 50 * TOLERANCE


def test_keys_of_layers_that_share_are_not_read(zoo: Path, tmp_path: Path) -> None:
    """Files may have them or not; published ones do, and count those layers with a float."""
    gguf = gguf_edit.read(model_file(zoo, "gemma3n"))
    for layer in (4, 5):
        for part in ("attn_k", "attn_v", "attn_k_norm"):
            gguf.remove_tensor(f"blk.{layer}.{part}.weight")
    gguf.set("gemma3n.attention.shared_kv_layers", F32, 2.0)
    path = tmp_path / "lean.gguf"
    path.write_bytes(gguf.to_bytes())
    ids = longest_tokens(zoo, "gemma3n")
    with opened(model_file(zoo, "gemma3n")) as full, opened(path) as lean:
        assert np.array_equal(lean.logits(ids), full.logits(ids))


@pytest.mark.parametrize("tensor", ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"])
def test_biases_matter(zoo: Path, tmp_path: Path, tensor: str) -> None:
    """As above, for the optional tensors: a loader that forgot one would fail."""
    gguf = gguf_edit.read(model_file(zoo, "bias"))
    gguf.remove_tensor(f"blk.0.{tensor}.bias")
    path = tmp_path / "changed.gguf"
    path.write_bytes(gguf.to_bytes())
    with opened(path) as model:
        ours = model.logits(tokens_of(zoo, "bias", "_long"))
    assert np.abs(ours - golden(zoo, "bias")["logits_long"]).max() > 50 * TOLERANCE


@pytest.mark.parametrize("spelling", ["scale_linear", "factor without type"])
def test_other_spellings_of_linear_scaling(zoo: Path, tmp_path: Path, spelling: str) -> None:
    """Older files scale positions by another key, or give the factor alone (llama.cpp reads that as linear)."""
    gguf = gguf_edit.read(model_file(zoo, "linear"))
    del gguf.values["llama.rope.scaling.type"]
    if spelling == "scale_linear":
        factor = gguf.values.pop("llama.rope.scaling.factor")
        gguf.values["llama.rope.scale_linear"] = factor
    path = tmp_path / "old.gguf"
    path.write_bytes(gguf.to_bytes())
    with opened(path) as model:
        ours = model.logits(tokens_of(zoo, "linear", "_long"))
    assert np.abs(ours - golden(zoo, "linear")["logits_long"]).max() < TOLERANCE


@pytest.mark.parametrize("name", ALL_FILES)
def test_info_describes_the_file(zoo: Path, name: str) -> None:
    """What the model says of itself is what the file holds, counted here by other code."""
    gguf = gguf_edit.read(model_file(zoo, name))
    with opened(model_file(zoo, name)) as model:
        info = model.info
        assert info.architecture == gguf.values["general.architecture"].data.decode()
        assert info.name == gguf.values["general.name"].data.decode()
        assert info.parameters == sum(int(np.prod(t.dims)) for t in gguf.tensors)
        assert info.context == gguf.values[f"{info.architecture}.context_length"].data
        assert info.quantisation == MAIN_TYPES.get(name, "F32")
        assert model.metadata["general.architecture"] == info.architecture
        assert set(model.metadata) == set(gguf.values)


def test_f16_vectors_are_converted(zoo: Path, tmp_path: Path) -> None:
    """Norms may be stored in F16; the scores move by their rounding only."""
    gguf = gguf_edit.read(model_file(zoo, "llama"))
    for tensor in gguf.tensors:
        if tensor.name.endswith(b"norm.weight"):
            n = tensor.dims[0]
            tensor.data = np.frombuffer(tensor.data, "<f4")[:n].astype("<f2").tobytes()
            tensor.kind = 1
    path = tmp_path / "f16.gguf"
    path.write_bytes(gguf.to_bytes())
    with opened(path) as model:
        ours = model.logits(tokens_of(zoo, "llama"))
    difference = np.abs(ours - golden(zoo, "llama")["logits"]).max()
    assert 1e-5 < difference < 2e-2
