"""Writes tests/data/convert: what tiny checkpoints of all architectures hold, and what llama.cpp's converter makes of them.

    python scripts/make_convert_references.py LLAMA_CPP tests/data/convert [--only NAME ...]

LLAMA_CPP is a source tree of llama.cpp. checkpoints.json has for each model its config.json as transformers saves it, and the
names, types and shapes of its tensors (values come from tests/tiny_checkpoints.py, by name). references.json has what the
converter wrote: metadata (long arrays as a digest), and per tensor the type, the shape and the first 16 digits of the
SHA-256 of its bytes; the values themselves where they come from exp or pow, whose last bit differs between libraries. The
names of pre-tokenizers are given to it: it would look them up by the hashes of published vocabularies.

Needs torch, transformers, numpy, safetensors, sentencepiece, protobuf, and what llama.cpp's converter needs beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import tiny_checkpoints

WINDOW, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
TYPES = {"f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}  # beside F32
APPROXIMATE = ("ssm_a", "rope_freqs.weight")
PLAIN_KEYS = ("general.name", "general.size_label", "general.basename", "general.finetune", "general.version", "general.tags")


def rope(theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta} | more


def base(**changes: Any) -> dict[str, Any]:
    """A small configuration in the words most models share, with `changes` (None drops an entry)."""
    config = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_parameters": rope(),
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    return {key: value for key, value in (config | changes).items() if value is not None}


def layer_norm(**changes: Any) -> dict[str, Any]:
    return base(**({"rms_norm_eps": None, "layer_norm_eps": 1e-5} | changes))


def moe(**changes: Any) -> dict[str, Any]:
    return base(**({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32} | changes))


GRANITE = {"embedding_multiplier": 6.0, "attention_multiplier": 0.125, "residual_multiplier": 0.375, "logits_scaling": 2.0}
MLA = {
    "num_hidden_layers": 3, "num_key_value_heads": 4, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
    "v_head_dim": 24, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "topk_group": 1,
}  # fmt: skip
YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
BERT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.25]}

# name: (transformers' model type, configuration, tokenizer, stored type)
MODELS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "llama": ("llama", base(attention_bias=True), "llama-bpe", "BF16"),
    "llama-rope3": (
        "llama",
        base(
            head_dim=32,
            rope_parameters=rope(
                5e5, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        "llama-bpe",
        "F32",
    ),
    "llama-spm": ("llama", base(tie_word_embeddings=True), "sentencepiece", "F16"),
    "mistral": ("mistral", base(sliding_window=16), "sentencepiece", "BF16"),
    "mixtral": ("mixtral", base(num_local_experts=4, num_experts_per_tok=2), "sentencepiece", "F32"),
    "qwen2": ("qwen2", base(), "qwen2", "BF16"),
    "qwen3": ("qwen3", base(head_dim=24), "qwen2", "BF16"),
    "qwen2moe": ("qwen2_moe", moe(shared_expert_intermediate_size=64, decoder_sparse_step=1), "qwen2", "F32"),
    "qwen3moe": ("qwen3_moe", moe(head_dim=24, decoder_sparse_step=1), "qwen2", "BF16"),
    "olmoe": ("olmoe", base(num_experts=4, num_experts_per_tok=2), "llama-bpe", "F32"),
    "gemma": ("gemma", base(num_key_value_heads=1, head_dim=32, tie_word_embeddings=True), "sentencepiece", "F32"),
    "gemma2": (
        "gemma2",
        base(
            num_hidden_layers=4, head_dim=24, query_pre_attn_scalar=24, sliding_window=16, tie_word_embeddings=True,
            attn_logit_softcapping=8.0, final_logit_softcapping=6.0,
        ),
        "sentencepiece",
        "BF16",
    ),
    "gemma3": (
        "gemma3_text",
        base(
            num_hidden_layers=6, head_dim=24, query_pre_attn_scalar=24, sliding_window=16, tie_word_embeddings=True,
            rope_parameters={FULL: rope(1e6), WINDOW: rope(1e4)},
        ),
        "sentencepiece",
        "BF16",
    ),
    "phi2": (
        "phi",
        layer_norm(num_key_value_heads=4, intermediate_size=256, rope_parameters=rope(partial_rotary_factor=0.5)),
        "gpt-2",
        "F32",
    ),
    "phi3": (
        "phi3",
        base(sliding_window=16, original_max_position_embeddings=128, rope_parameters=rope(partial_rotary_factor=1.0)),
        "sentencepiece",
        "BF16",
    ),
    "phi3-long": (
        "phi3",
        base(
            original_max_position_embeddings=64,
            rope_parameters=rope(
                rope_type="longrope", partial_rotary_factor=1.0, original_max_position_embeddings=64, short_factor=[1.0] * 8,
                long_factor=[1.5 + i / 4 for i in range(8)],
            ),
        ),
        "sentencepiece",
        "F32",
    ),
    "smollm3": ("smollm3", base(num_hidden_layers=4, tie_word_embeddings=True, rope_parameters=rope(2e6)), "llama-bpe", "F32"),
    "granite": ("granite", base(tie_word_embeddings=True, **GRANITE), "smollm", "F32"),
    "granitemoe": (
        "granitemoe",
        base(tie_word_embeddings=True, num_local_experts=4, num_experts_per_tok=2, **GRANITE),
        "smollm",
        "F32",
    ),
    "granitemoe-shared": (
        "granitemoeshared",
        base(num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=48, **GRANITE),
        "smollm",
        "BF16",
    ),
    "olmo2": ("olmo2", base(num_key_value_heads=4), "llama-bpe", "F32"),
    "olmo3": (
        "olmo3",
        base(num_hidden_layers=4, num_key_value_heads=4, sliding_window=16, layer_types=[WINDOW, WINDOW, WINDOW, FULL]),
        "llama-bpe",
        "F32",
    ),
    "stablelm": (
        "stablelm",
        layer_norm(use_qkv_bias=True, rope_parameters=rope(partial_rotary_factor=0.25)),
        "llama-bpe",
        "F32",
    ),
    "starcoder2": ("starcoder2", base(rms_norm_eps=None, norm_epsilon=1e-5, tie_word_embeddings=True), "smollm", "F32"),
    "gpt2": (
        "gpt2",
        {"n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_ctx": 64, "bos_token_id": 0, "eos_token_id": 1},
        "gpt-2",
        "F32",
    ),
    "gptneox": (
        "gpt_neox",
        layer_norm(num_key_value_heads=None, rope_parameters=rope(partial_rotary_factor=0.5)),
        "gpt-2",
        "F32",
    ),
    "falcon": (
        "falcon",
        layer_norm(
            num_key_value_heads=None, intermediate_size=None, layer_norm_eps=None, layer_norm_epsilon=1e-5, multi_query=True,
            tie_word_embeddings=True, parallel_attn=True, new_decoder_architecture=False,
        ),
        "llama-bpe",
        "F32",
    ),
    "falcon-new": (
        "falcon",
        layer_norm(
            num_key_value_heads=None, num_kv_heads=2, intermediate_size=None, layer_norm_eps=None, layer_norm_epsilon=1e-5,
            tie_word_embeddings=True, new_decoder_architecture=True,
        ),
        "llama-bpe",
        "F32",
    ),
    "cohere2": (
        "cohere2",
        layer_norm(
            num_hidden_layers=4, tie_word_embeddings=True, sliding_window=16, logit_scale=0.25,
            layer_types=[WINDOW, WINDOW, WINDOW, FULL],
        ),
        "llama-bpe",
        "F32",
    ),
    "exaone4": (
        "exaone4",
        base(num_hidden_layers=4, sliding_window=16, layer_types=[WINDOW, WINDOW, WINDOW, FULL], head_dim=16),
        "llama-bpe",
        "F32",
    ),
    "glm4": ("glm4", base(head_dim=16, rope_parameters=rope(partial_rotary_factor=0.5)), "llama-bpe", "F32"),
    "gpt-oss": (
        "gpt_oss",
        base(
            num_local_experts=4, num_experts_per_tok=2, head_dim=16, sliding_window=16, layer_types=[WINDOW, FULL],
            rope_parameters=YARN | {"rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 64},
        ),
        "llama-bpe",
        "F32",
    ),
    "deepseek2": (
        "deepseek_v2",
        base(q_lora_rank=None, n_group=1, topk_method="greedy", routed_scaling_factor=1.5, **MLA),
        "llama-bpe",
        "F32",
    ),
    "deepseek3": (
        "deepseek_v3",
        base(
            q_lora_rank=24, n_group=2, norm_topk_prob=True, **MLA,
            rope_parameters=YARN | {
                "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 32,
            },
        ),
        "llama-bpe",
        "BF16",
    ),
    "lfm2": (
        "lfm2",
        base(
            num_hidden_layers=3, rms_norm_eps=None, norm_eps=1e-5, conv_L_cache=3, layer_types=["conv", FULL, "conv"],
            block_ff_dim=96, block_multiple_of=32, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
            tie_word_embeddings=True,
        ),
        "llama-bpe",
        "F32",
    ),
    "mamba": (
        "mamba",
        {
            "hidden_size": 64, "state_size": 8, "num_hidden_layers": 2, "conv_kernel": 4, "expand": 2, "intermediate_size": 128,
            "time_step_rank": 4, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1,
        },
        "llama-bpe",
        "F32",
    ),
    "mamba2": (
        "mamba2",
        {
            "hidden_size": 64, "state_size": 16, "num_hidden_layers": 2, "conv_kernel": 4, "expand": 2, "num_heads": 8,
            "head_dim": 16, "n_groups": 2, "chunk_size": 16, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
        },
        "llama-bpe",
        "F32",
    ),
    "falcon-h1": (
        "falcon_h1",
        base(
            head_dim=16, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=2, mamba_d_state=8, mamba_d_conv=4,
            mamba_expand=2, mamba_chunk_size=16, attention_in_multiplier=0.75, attention_out_multiplier=1.25,
            ssm_in_multiplier=0.625, ssm_out_multiplier=1.5, mlp_multipliers=[0.875, 1.1],
            ssm_multipliers=[0.9, 1.1, 0.7, 1.3, 0.6], key_multiplier=0.8, embedding_multiplier=1.7, lm_head_multiplier=0.3,
        ),
        "llama-bpe",
        "F32",
    ),
    "qwen35": (
        "qwen3_5_text",
        base(
            num_hidden_layers=4, head_dim=16, layer_types=[LINEAR, LINEAR, LINEAR, FULL], linear_num_key_heads=2,
            linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, linear_conv_kernel_dim=4,
            rope_parameters=rope(1e7, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True),
        ),
        "qwen2",
        "F32",
    ),
    "qwen35moe": (
        "qwen3_5_moe_text",
        moe(
            intermediate_size=None, num_hidden_layers=4, head_dim=16, layer_types=[LINEAR, LINEAR, LINEAR, FULL],
            linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
            linear_conv_kernel_dim=4, shared_expert_intermediate_size=48,
            rope_parameters=rope(1e7, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True),
        ),
        "qwen2",
        "F32",
    ),
    "bert": ("bert", BERT | {"max_position_embeddings": 64, "type_vocab_size": 2}, "wordpiece", "F32"),
    "roberta": (
        "roberta",
        BERT | {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
        "roberta",
        "F32",
    ),
    "xlm-roberta": (
        "xlm-roberta",
        BERT | {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
        "unigram",
        "F32",
    ),
    "distilbert": (
        "distilbert",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
        "wordpiece",
        "F32",
    ),
    "smolvlm": (
        "smolvlm",
        {
            "text_config": {"model_type": "llama", "architectures": ["VLlama3ForCausalLM"]} | base(vocab_size=272),
            "vision_config": VISION | {"image_size": 32},
            "scale_factor": 2,
        },
        "smollm",
        "F32",
    ),
    "gemma3-vision": (
        "gemma3",
        {
            "text_config": base(
                vocab_size=280, num_hidden_layers=6, head_dim=24, query_pre_attn_scalar=24, sliding_window=16
            ),
            "vision_config": VISION | {"image_size": 64},
            "mm_tokens_per_image": 16,
            "tie_word_embeddings": True,
        },
        "sentencepiece",
        "F32",
    ),
}  # fmt: skip
# config.json of models as they are published, where the class's own words differ from what the converter asks for.
PUBLISHED = {
    "gptneox": {"rotary_pct": 0.5},
    "cohere2": {"rotary_pct": 1.0},
    "falcon": {"num_kv_heads": 1},
}
FILES = {
    "smolvlm": {"preprocessor_config.json": PIXELS | {"size": {"longest_edge": 64}}},
    "gemma3-vision": {"preprocessor_config.json": PIXELS | {"image_seq_length": 16}},
}
IN_ALL_TYPES = ("qwen3moe", "gemma2", "lfm2", "bert", "mamba2")
OPTIONS = {"qwen35": {"no_mtp": True}, "qwen35moe": {"no_mtp": True}}


def describe(name: str) -> dict[str, Any]:
    """What transformers saves for a model: config.json, and the names, types and shapes of its tensors."""
    kind, given, tokenizer, dtype = MODELS[name]
    if "text_config" not in given:
        n_tokens = tiny_checkpoints.N_TOKENS.get(tokenizer, 272)
        given = {"vocab_size": n_tokens} | given
    config = AutoConfig.for_model(kind, **given)
    if "vision_config" in given:
        auto = transformers.AutoModelForImageTextToText
    else:
        auto = AutoModel if kind in ("bert", "roberta", "xlm-roberta", "distilbert") else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    tensors: dict[str, tuple[str, list[int]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        with safe_open(Path(scratch) / "model.safetensors", "pt") as file:
            for tensor in file.keys():  # noqa: SIM118 - not a dict
                published = re.sub(r"^vision_tower\.(?!vision_model)", "vision_tower.vision_model.", tensor)
                tensors[published] = (dtype, list(file.get_slice(tensor).get_shape()))
        saved = json.loads((Path(scratch) / "config.json").read_text(encoding="utf-8"))
    return {"config": saved | PUBLISHED.get(name, {}), "tensors": tensors, "tokenizer": tokenizer, "files": FILES.get(name, {})}


def made_by_hand(descriptions: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints that transformers does not write: MXFP4 and FP8 weights, and Nomic's own class."""
    made: dict[str, Any] = {}
    if "gpt-oss" in descriptions:
        oss = descriptions["gpt-oss"]
        tensors = {}
        for name, (dtype, shape) in oss["tensors"].items():
            if name.endswith(("gate_up_proj", "experts.down_proj")):
                n, n_in, n_out = shape
                tensors[name + "_blocks"] = ("U8", [n, n_out, n_in // 32, 16])
                tensors[name + "_scales"] = ("U8", [n, n_out, n_in // 32])
            else:
                tensors[name] = (dtype, shape)
        quantised = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []}}
        made["gpt-oss-mxfp4"] = oss | {"config": oss["config"] | quantised, "tensors": tensors}
    if "deepseek3" in descriptions:
        deepseek = descriptions["deepseek3"]
        tensors = {}
        for name, (dtype, shape) in deepseek["tensors"].items():
            if "_proj" in name and len(shape) == 2:
                tensors[name] = ("F8_E4M3", shape)
                tensors[name + "_scale_inv"] = ("F32", [-(-shape[0] // 128), -(-shape[1] // 128)])
            else:
                tensors[name] = (dtype, shape)
        quantised = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}}
        made["deepseek3-fp8"] = deepseek | {"config": deepseek["config"] | quantised, "tensors": tensors}
    n_tokens = tiny_checkpoints.N_TOKENS["wordpiece"]
    ends = {"embeddings.word_embeddings.weight": [n_tokens, 64], "embeddings.token_type_embeddings.weight": [2, 64]}
    ends |= {"emb_ln.weight": [64], "emb_ln.bias": [64]}
    layer = {
        "attn.Wqkv.weight": [192, 64], "attn.out_proj.weight": [64, 64], "norm1.weight": [64], "norm1.bias": [64],
        "norm2.weight": [64], "norm2.bias": [64], "mlp.fc11.weight": [96, 64], "mlp.fc12.weight": [96, 64],
        "mlp.fc2.weight": [64, 96],
    }  # fmt: skip
    shapes = ends | {f"encoder.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    nomic = {
        "architectures": ["NomicBertModel"], "model_type": "nomic_bert_published", "activation_function": "swiglu",
        "causal": False, "layer_norm_epsilon": 1e-12, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "n_embd": 64, "n_head": 4,
        "n_inner": 96, "n_layer": 2, "n_positions": 8192, "max_trained_positions": 2048, "prenorm": False,
        "qkv_proj_bias": False, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None, "type_vocab_size": 2, "vocab_size": n_tokens,
    }  # fmt: skip
    tensors = {name: ("F32", shape) for name, shape in shapes.items()}
    made["nomic-bert"] = {"config": nomic, "tensors": tensors, "tokenizer": "wordpiece", "files": {}}
    return made


def packed(tensors: dict[str, tuple[str, list[int]]]) -> dict[str, list[Any]]:
    """Names that differ in their numbers only as one entry."""
    rows: dict[tuple[str, str, str], list[list[int]]] = {}
    for name, (dtype, shape) in tensors.items():
        numbers = [int(part) for part in re.findall(r"(?<=\.)\d+(?=\.)", name)]
        plain = re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)
        rows.setdefault((plain, dtype, json.dumps(shape)), []).append(numbers)
    found: dict[str, list[Any]] = {}
    for (plain, dtype, shape), numbers in rows.items():
        if numbers == [[]]:
            found[plain] = [dtype, json.loads(shape)]
        elif plain in found:  # the same name with another shape elsewhere
            for row in numbers:
                found[plain.format(*row)] = [dtype, json.loads(shape)]
        else:
            found[plain] = [dtype, json.loads(shape), numbers]
    return found


def convert(folder: Path, out: Path, name: str, pre: str, outtype: str, vision: bool) -> None:
    """llama.cpp's converter, told the name of the pre-tokenizer."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class  # type: ignore[import-not-found]

    hparams = ModelBase.load_hparams(folder, False)
    kind = ModelType.MMPROJ if vision else ModelType.TEXT
    known = get_model_class(get_model_architecture(hparams, kind), mmproj=vision)

    def set_gguf_parameters(self: Any) -> None:
        self.hparams |= {key: value for key, value in PUBLISHED.get(name, {}).items() if key not in self.hparams}
        known.set_gguf_parameters(self)

    methods: dict[str, Any] = {"get_vocab_base_pre": lambda self, tokenizer: pre, "model_arch": known.model_arch}
    methods |= OPTIONS.get(name, {}) | ({"set_gguf_parameters": set_gguf_parameters} if name in PUBLISHED else {})
    converter = type(known.__name__, (known,), methods)
    with torch.inference_mode():
        converter(folder, gguf.LlamaFileType[outtype], out, model_name="tiny", eager=True).write()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def read(path: Path) -> dict[str, Any]:
    """What a test needs to know of a file."""
    metadata, tensors = tiny_checkpoints.read_gguf(path)
    kept = {}
    for key, value in sorted(metadata.items()):
        if key in PLAIN_KEYS:
            continue
        long = isinstance(value, list) and len(value) > 16
        kept[key] = {"n": len(value), "sha256": digest(json.dumps(value).encode())} if long else value
    found = {}
    for name, tensor in sorted(tensors.items()):
        kind, shape, data = tensor
        values = tiny_checkpoints.floats(tensor).ravel().tolist() if name.endswith(APPROXIMATE) else None
        found[name] = [kind, list(shape), digest(data) if values is None else [round(value, 9) for value in values][:64]]
    return {"metadata": kept, "tensors": found}


def main() -> None:
    """Writes both files, or brings the models that were asked for up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help="make these, keep the others")
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp / "gguf-py"), str(args.llama_cpp)]
    logging.disable(logging.WARNING)
    paths = [args.out / "checkpoints.json", args.out / "references.json"]
    old = [json.loads(path.read_text(encoding="utf-8")) if path.exists() and args.only else {} for path in paths]
    descriptions = {name: describe(name) for name in args.only or MODELS}
    descriptions |= made_by_hand(descriptions)
    checkpoints, references = old
    for name, description in descriptions.items():
        checkpoints[name] = description | {"tensors": packed(description["tensors"])}
        tokenizer = description["tokenizer"]
        pre = {"roberta": "gpt-2", "wordpiece": "bert-bge"}.get(tokenizer, tokenizer)
        if name == "glm4":
            pre = "glm4"
        with tempfile.TemporaryDirectory() as scratch:
            folder = tiny_checkpoints.write(Path(scratch) / "tiny", checkpoints[name])
            file = Path(scratch) / "out.gguf"
            wanted = {"f32": "ALL_F32"} | (TYPES if name in IN_ALL_TYPES else {})
            for short, outtype in wanted.items():
                convert(folder, file, name, pre, outtype, False)
                references[name if short == "f32" else f"{name} {short}"] = read(file)
            if "vision_config" in description["config"]:
                convert(folder, file, name, pre, "ALL_F32", True)
                references[f"{name} mmproj"] = read(file)
        print(name, len(references[name]["tensors"]), flush=True)
    for path, value in zip(paths, (checkpoints, references), strict=True):
        rows = [
            f" {json.dumps(key)}: {json.dumps(value[key], ensure_ascii=False, separators=(',', ':'))}" for key in sorted(value)
        ]
        path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
