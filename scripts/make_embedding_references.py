"""Writes tests/data/embeddings: a tiny random BERT with what transformers makes of texts, and the same for all-MiniLM-L6-v2.

    python scripts/make_embedding_references.py MINILM_DIR tests/data/embeddings

MINILM_DIR is the checkpoint sentence-transformers/all-MiniLM-L6-v2. bert.gguf.xz (F32) is the tiny model, converted by
cactus_py.hub.conversion; references.npz holds for both models the token ids of every text and its vector: mean over all tokens
of the last hidden state, and for the tiny one also the state of the first token, of length 1. Needs torch and transformers.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from cactus_py.hub.conversion import convert

WORDS = "the quiet engine counts seven silver stone ##s river run ##ning under bridge bread bak ##ing rise . , ? why does do"
SENTENCES = [
    "The quiet engine counts seven silver stones.",
    "Why does bread rise?",
    "How do I bake bread at home?",
    "A recipe for sourdough loaves.",
    "The stock market fell sharply on Monday.",
    "Shares dropped at the start of the week.",
    "café naïve über — déjà vu",
    "東京は日本の首都です。",
    "ok",
    "The river runs under the bridge, and the bridge stands over the river. " * 12,
]


def vectors(model: Any, tokenizer: Any, sentences: list[str]) -> dict[str, np.ndarray]:
    """Token ids and pooled states, one text at a time."""
    found: dict[str, np.ndarray] = {}
    means, firsts = [], []
    for i, sentence in enumerate(sentences):
        ids = tokenizer(sentence)["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0].double().numpy()
        found[f"tokens_{i}"] = np.array(ids, dtype=np.int32)
        for kept, vector in ((means, states.mean(axis=0)), (firsts, states[0])):
            kept.append((vector / np.linalg.norm(vector)).astype(np.float32))
    return found | {"mean": np.array(means), "cls": np.array(firsts)}


def tiny(folder: Path) -> tuple[Any, Any]:
    """Wide spreads of weights, so that every part matters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=72,
        max_position_embeddings=160, layer_norm_eps=1e-12,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.5 if "embeddings" in name else 0.25
            around = 1.0 if "LayerNorm.weight" in name else 0.0
            parameter.copy_((around + spread * torch.randn_like(parameter)).half().float())  # short: the file packs better
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    (folder / "modules.json").write_text('[{"idx": 1, "name": "1", "path": "1_Pooling", "type": "models.Pooling"}]')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return model, tokenizer


def main(minilm: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "bert", Path(temporary) / "bert.gguf"
        folder.mkdir()
        model, tokenizer = tiny(folder)
        convert(folder, out, type="f32")
        (target / "bert.gguf.xz").write_bytes(lzma.compress(out.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
        arrays |= {f"bert_{key}": value for key, value in vectors(model, tokenizer, SENTENCES[:6]).items()}
    real = BertModel.from_pretrained(minilm, dtype=torch.float32).eval()
    found = vectors(real, AutoTokenizer.from_pretrained(minilm), SENTENCES)
    arrays |= {f"minilm_{key}": value for key, value in found.items() if key != "cls"}
    np.savez_compressed(target / "references.npz", **arrays)
    (target / "sentences.json").write_text(json.dumps(SENTENCES, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
