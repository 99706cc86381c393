"""The table of encoders: BERT's family, vision towers with or without a projector, and Whisper.

BERT is laid out as llama.cpp's `bert` and `nomic-bert`, vision as its mmproj files (architecture `clip`). Whisper, and towers
without a projector, have no layout there: docs/model-files.md describes ours.
"""

from __future__ import annotations

from typing import Any

from cactus_py.errors import ModelFormatError, UnsupportedModelError
from cactus_py.hub.conversion.config import Config
from cactus_py.hub.conversion.container import F16, F32, TensorType
from cactus_py.hub.conversion.decoders import blocks, plus_one
from cactus_py.hub.conversion.lazy import Lazy
from cactus_py.hub.conversion.parameters import standard
from cactus_py.hub.conversion.plan import Architecture, Job, Names, To
from cactus_py.hub.conversion.vocabulary import byte_level, roberta, wordpiece

# ---- BERT -----------------------------------------------------------------------------------------------------------------

_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}


def pooling(job: Job) -> None:
    """How a sentence becomes one vector, as the modules of sentence-transformers say."""
    path = job.folder / "modules.json"
    if not path.is_file():
        return
    for place in _pooling_folders(job):
        config = job.json(f"{place}/config.json")
        for mode, number in _POOLING.items():
            if config.get(f"pooling_mode_{mode}_tokens") or config.get(f"pooling_mode_{mode}_token"):
                job.meta.u32(job.key("pooling_type"), number)
                return
        named = str(config.get("pooling_mode", "lasttoken" if config.get("pooling_mode_lasttoken") else None))
        if named in _POOLING:
            job.meta.u32(job.key("pooling_type"), _POOLING[named])
            return
        raise UnsupportedModelError(f"{job.folder / place} asks for a pooling other than mean, cls and last token.")


def _pooling_folders(job: Job) -> list[str]:
    import json

    path = job.folder / "modules.json"
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        found = [str(module["path"]) for module in modules if str(module["type"]).endswith("Pooling")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(f"{path} is not the list of modules that it should be: {error}.") from error
    for place in found:
        if not place or any(part in ("", ".", "..") for part in place.split("/")) or "\\" in place:
            raise ModelFormatError(f"{path} names the folder {place!r}, which is not below it.")
    return found[:1]


def _bert(job: Job) -> None:
    standard(job)
    job.meta.flag(job.key("attention.causal"), False)
    pooling(job)


def _distilbert(job: Job) -> None:
    job.meta.f32(job.key("attention.layer_norm_epsilon"), 1e-12)
    _bert(job)


def _roberta(job: Job) -> None:
    """Positions count from behind the id that pads: the rows before are never used."""
    offset = _position_offset(job.config)
    job.config.values["max_position_embeddings"] = job.config.whole("max_position_embeddings") - offset
    _bert(job)


def _position_offset(config: Config) -> int:
    pad = config.maybe_whole("pad_token_id")
    return 0 if pad is None else 1 + pad


def _used_positions(config: Config, value: Lazy) -> Lazy:
    return value[_position_offset(config) :]


def _nomic(job: Job) -> None:
    config = job.config
    fixed = {
        "prenorm": False, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "qkv_proj_bias": False,
        "mlp_fc1_bias": False, "mlp_fc2_bias": False, "activation_function": "swiglu",
    }  # fmt: skip
    if config.get("moe_every_n_layers"):
        raise UnsupportedModelError("Nomic's embedding models with experts are not supported.")
    for name, value in fixed.items():
        if config.get(name, default=value) != value:
            raise UnsupportedModelError(f"config.json has {name} = {config.get(name)!r}; only {value!r} is supported.")
    if config.maybe_whole("n_positions") == 8192:
        config.values["n_positions"] = config.maybe_whole("max_trained_positions") or 2048  # what it was trained on
    _bert(job)


_BERT_LAYER: Names = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_BERT_NAMES: Names = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "embeddings.position_ids": None,
    "pooler.dense": None,
    "cls.predictions.bias": None,
    "cls.predictions.decoder": None,
    "cls.predictions.transform.dense": None,
    "cls.predictions.transform.LayerNorm": None,
    "cls.seq_relationship": None,
    "lm_head.bias": None,
    "lm_head.dense": None,
    "lm_head.layer_norm": None,
    "lm_head.decoder": None,
    **blocks(_BERT_LAYER, "encoder.layer.{}."),
}

# ---- vision ---------------------------------------------------------------------------------------------------------------

_TOWER: Names = {
    "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding": "v.position_embd",
    "embeddings.class_embedding": "v.class_embd",
    "embeddings.position_ids": None,
    "pre_layrnorm": "v.pre_ln",
    "post_layernorm": "v.post_ln",
    "head.probe": "v.head.probe",
    "head.attention.in_proj_weight": "v.head.attn_qkv.weight",
    "head.attention.in_proj_bias": "v.head.attn_qkv.bias",
    "head.attention.out_proj": "v.head.attn_out",
    "head.layernorm": "v.head.ln",
    "head.mlp.fc1": "v.head.ffn_up",
    "head.mlp.fc2": "v.head.ffn_down",
    **blocks(
        {
            "layer_norm1": "ln1",
            "layer_norm2": "ln2",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.out_proj": "attn_out",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
        "encoder.layers.{}.",
        "v.blk.{}.",
    ),
}


def _vision(job: Job) -> None:
    """What all towers say of themselves; `config` is the vision_config."""
    config, meta = job.config, job.meta
    meta.flag("clip.has_vision_encoder", True)
    for name, given in {
        "image_size": ("image_size",),
        "patch_size": ("patch_size",),
        "embedding_length": ("hidden_size", "width"),
        "feed_forward_length": ("intermediate_size",),
        "block_count": ("num_hidden_layers", "num_layers", "depth"),
        "attention.head_count": ("num_attention_heads", "num_heads"),
    }.items():
        meta.u32(f"clip.vision.{name}", config.whole(*given))
    pixels = {**job.json("preprocessor_config.json"), **job.json("processor_config.json")}
    pixels |= pixels["image_processor"] if isinstance(pixels.get("image_processor"), dict) else {}
    for name in ("image_mean", "image_std"):
        values = pixels.get(name, [0.5, 0.5, 0.5])
        if not isinstance(values, list) or len(values) != 3:
            raise ModelFormatError(f"preprocessor_config.json has no three numbers for {name}.")
        meta.array(f"clip.vision.{name}", "f32", values)
    job.config.values["_pixels"] = pixels


def _text_width(job: Job) -> int:
    return (job.root or job.config).whole("hidden_size", "n_embd")


def _idefics3(job: Job) -> None:
    root = job.root or job.config
    job.config.values = {"hidden_size": 1152, "num_attention_heads": 16, "intermediate_size": 3072, **job.config.values}
    _vision(job)
    meta = job.meta
    meta.u32("clip.vision.projection_dim", _text_width(job))
    meta.text("clip.projector_type", "idefics3")
    eps = job.config.maybe_number("layer_norm_eps")
    meta.f32("clip.vision.attention.layer_norm_epsilon", 1e-5 if eps is None else eps)
    meta.u32("clip.vision.projector.scale_factor", root.maybe_whole("scale_factor") or 2)
    meta.flag("clip.use_gelu", True)
    size = job.config.values["_pixels"].get("size")
    longest = size.get("longest_edge") if isinstance(size, dict) else None
    meta.u32("clip.vision.preproc_image_size", longest if type(longest) is int else job.config.whole("image_size"))


def _gemma3(job: Job) -> None:
    _vision(job)
    meta, config = job.meta, job.config
    meta.u32("clip.vision.projection_dim", _text_width(job))
    meta.text("clip.projector_type", "gemma3")
    eps = config.maybe_number("layer_norm_eps")
    meta.f32("clip.vision.attention.layer_norm_epsilon", 1e-6 if eps is None else eps)
    meta.flag("clip.use_gelu", True)
    n_tokens = config.values["_pixels"].get("image_seq_length", 256)
    scale = (config.whole("image_size") // config.whole("patch_size")) // int(n_tokens**0.5)
    if scale > 0 and scale != 4:
        meta.u32("clip.vision.projector.scale_factor", scale)


def _bare_tower(job: Job) -> None:
    """A tower alone, as it is published for embeddings: SigLIP ends in a pooling head, CLIP in a projection."""
    _vision(job)
    config = job.config
    eps = config.maybe_number("layer_norm_eps")
    is_clip = config.get("model_type") in ("clip", "clip_vision_model")
    job.meta.f32("clip.vision.attention.layer_norm_epsilon", eps if eps is not None else 1e-5 if is_clip else 1e-6)
    width = config.maybe_whole("projection_dim") if is_clip else None
    job.meta.u32("clip.vision.projection_dim", width or config.whole("hidden_size"))
    job.meta.flag("clip.use_gelu", not (is_clip and config.get("hidden_act", default="quick_gelu") == "quick_gelu"))


def _no_vocabulary(job: Job) -> None:
    """Pictures have none."""


def _patches(source: str, target: str) -> TensorType | None:
    """Patches and positions keep F32 (F16 files: patches in F16 where the projector allows it)."""
    return F32 if ".embeddings." in source or source.startswith("embeddings.") else None


def _gemma3_types(source: str, target: str) -> TensorType | None:
    return F16 if "input_projection" in source else _patches(source, target)


def _vision_blocks(config: Config) -> int:
    return config.whole("num_hidden_layers", "num_layers", "depth")


_VISION: dict[str, Any] = {"towers": {"v.blk": _vision_blocks}, "needs": ("v.patch_embd.weight",), "base_prefix": ""}
_TOWER_PREFIXES = ("model.", "vision_tower.", "vision_model.")

# ---- Whisper --------------------------------------------------------------------------------------------------------------


def _whisper(job: Job) -> None:
    config, meta = job.config, job.meta
    meta.u32("whisper.embedding_length", config.whole("d_model"))
    meta.u32("whisper.vocab_size", config.whole("vocab_size"))
    meta.u32("whisper.context_length", config.whole("max_target_positions"))
    meta.f32("whisper.attention.layer_norm_epsilon", 1e-5)
    for side in ("encoder", "decoder"):
        meta.u32(f"whisper.{side}.block_count", config.whole(f"{side}_layers"))
        meta.u32(f"whisper.{side}.feed_forward_length", config.whole(f"{side}_ffn_dim"))
        meta.u32(f"whisper.{side}.attention.head_count", config.whole(f"{side}_attention_heads"))
    meta.u32("whisper.encoder.context_length", config.whole("max_source_positions"))
    sound = job.json("preprocessor_config.json")
    for name, given, default in (
        ("mel_bins", "feature_size", config.whole("num_mel_bins")),
        ("sample_rate", "sampling_rate", 16000),
        ("fft_length", "n_fft", 400),
        ("hop_length", "hop_length", 160),
        ("chunk_seconds", "chunk_length", 30),
    ):
        value = sound.get(given, default)
        meta.u32(f"whisper.audio.{name}", value if type(value) is int else default)
    _whisper_generation(job)


def _whisper_generation(job: Job) -> None:
    """What a transcription begins with and must not say: ids, from generation_config.json or else config.json."""
    meta = job.meta
    given = {**job.config.values, **job.json("generation_config.json")}
    for name in ("decoder_start_token_id", "no_timestamps_token_id", "prev_sot_token_id"):
        if type(token := given.get(name)) is int and token >= 0:
            meta.u32(f"whisper.{name}", token)
    for name, target in (
        ("suppress_tokens", "tokenizer.ggml.suppress_tokens"),
        ("begin_suppress_tokens", "whisper.begin_suppress_tokens"),
    ):
        tokens = given.get(name)
        if isinstance(tokens, list) and tokens and all(type(token) is int and token >= 0 for token in tokens):
            meta.array(target, "i32", tokens)
    languages = given.get("lang_to_id")
    if isinstance(languages, dict) and all(type(token) is int for token in languages.values()):
        meta.array("whisper.languages", "text", [name.strip("<|>") for name in languages])
        meta.array("whisper.language_token_ids", "i32", list(languages.values()))
    tasks = given.get("task_to_id")
    for task in ("transcribe", "translate"):
        if isinstance(tasks, dict) and type(tasks.get(task)) is int:
            meta.u32(f"whisper.{task}_token_id", tasks[task])


def _conv_types(source: str, target: str) -> TensorType | None:
    return F32 if ".conv" in source else None


_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "output"}
_WHISPER_LAYER: dict[str, str] = {
    "self_attn_layer_norm": "attn_norm",
    "final_layer_norm": "ffn_norm",
    "fc1": "ffn_up",
    "fc2": "ffn_down",
    **{f"self_attn.{source}": f"attn_{target}" for source, target in _ATTENTION.items()},
}
_CROSS: dict[str, str] = {
    "encoder_attn_layer_norm": "cross_attn_norm",
    **{f"encoder_attn.{source}": f"cross_attn_{target}" for source, target in _ATTENTION.items()},
}

# ---- the table --------------------------------------------------------------------------------------------------------------

ENCODERS: tuple[Architecture, ...] = (
    Architecture(
        "bert",
        ("BertModel", "BertForMaskedLM"),
        _BERT_NAMES,
        _bert,
        wordpiece,
        base_prefix="",
        strip=("bert.",),
        defaults={"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2},
    ),
    Architecture(
        "bert",
        ("RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM", "CamembertModel"),
        {**_BERT_NAMES, "embeddings.position_embeddings": To("position_embd", _used_positions)},
        _roberta,
        roberta,
        base_prefix="",
        strip=("roberta.",),
        defaults={"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 1},
    ),
    Architecture(
        "bert",
        ("DistilBertModel", "DistilBertForMaskedLM"),
        {
            **_BERT_NAMES,
            "vocab_transform": None,
            "vocab_layer_norm": None,
            "vocab_projector": None,
            **blocks(
                {
                    "attention.q_lin": "attn_q",
                    "attention.k_lin": "attn_k",
                    "attention.v_lin": "attn_v",
                    "attention.out_lin": "attn_output",
                    "sa_layer_norm": "attn_output_norm",
                    "ffn.lin1": "ffn_up",
                    "ffn.lin2": "ffn_down",
                    "output_layer_norm": "layer_output_norm",
                },
                "transformer.layer.{}.",
            ),
        },
        _distilbert,
        wordpiece,
        base_prefix="",
        strip=("distilbert.",),
        defaults={"max_position_embeddings": 512},
    ),
    Architecture(
        "nomic-bert",
        ("NomicBertModel",),
        {
            "embeddings.word_embeddings": "token_embd",
            "embeddings.token_type_embeddings": "token_types",
            "emb_ln": "token_embd_norm",
            **blocks(
                {
                    "attn.Wqkv": "attn_qkv",
                    "attn.out_proj": "attn_output",
                    "norm1": "attn_output_norm",
                    "mlp.fc11": "ffn_up",
                    "mlp.fc12": "ffn_gate",
                    "mlp.fc2": "ffn_down",
                    "norm2": "layer_output_norm",
                },
                "encoder.layers.{}.",
            ),
        },
        _nomic,
        wordpiece,
        base_prefix="",
        strip=("bert.",),
    ),
    Architecture(
        "whisper",
        ("WhisperForConditionalGeneration", "WhisperModel"),
        {
            "model.encoder.conv1": "enc.conv1",
            "model.encoder.conv2": "enc.conv2",
            "model.encoder.embed_positions": "enc.position_embd",
            "model.encoder.layer_norm": "enc.output_norm",
            "model.decoder.embed_tokens": "token_embd",
            "model.decoder.embed_positions": "dec.position_embd",
            "model.decoder.layer_norm": "dec.output_norm",
            "proj_out": None,
            **blocks(_WHISPER_LAYER, "model.encoder.layers.{}.", "enc.blk.{}."),
            **blocks({**_WHISPER_LAYER, **_CROSS}, "model.decoder.layers.{}.", "dec.blk.{}."),
        },
        _whisper,
        byte_level,
        force=_conv_types,
        towers={
            "enc.blk": lambda config: config.whole("encoder_layers"),
            "dec.blk": lambda config: config.whole("decoder_layers"),
        },
        needs=("token_embd.weight", "enc.conv1.weight", "enc.position_embd.weight", "dec.position_embd.weight"),
    ),
)

VISION: tuple[Architecture, ...] = (
    Architecture(
        "clip",
        ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
        {**_TOWER, "connector.modality_projection.proj": "mm.model.fc"},
        _idefics3,
        _no_vocabulary,
        force=_patches,
        strip=_TOWER_PREFIXES,
        **_VISION,
    ),
    Architecture(
        "clip",
        ("Gemma3ForConditionalGeneration",),
        {
            **{name: None if name.startswith("head.") else to for name, to in _TOWER.items()},
            "multi_modal_projector.mm_input_projection_weight": "mm.input_projection.weight",
            "multi_modal_projector.mm_soft_emb_norm": To("mm.soft_emb_norm", plus_one),
        },
        _gemma3,
        _no_vocabulary,
        force=_gemma3_types,
        strip=_TOWER_PREFIXES,
        **_VISION,
    ),
    Architecture(
        "clip",
        ("SiglipModel", "SiglipVisionModel", "CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection"),
        {**_TOWER, "visual_projection": "v.projection"},
        _bare_tower,
        _no_vocabulary,
        force=_patches,
        strip=_TOWER_PREFIXES,
        **_VISION,
    ),
)

__all__ = ["ENCODERS", "VISION"]
