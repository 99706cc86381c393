"""The tokenizer against ids that llama.cpp and Hugging Face's tokenizers gave, and what must hold for any text."""

from __future__ import annotations

import json
import lzma
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gguf_edit import ARRAY, F32, I32, STRING, Array, Gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_py.engine import Tokenizer
from cactus_py.errors import UnsupportedModelError

DATA = Path(__file__).parent / "data" / "tokenizer"
NAMES = ["gpt-2", "smollm2", "llama-bpe", "qwen2"]
WHOLE = ["gpt-2", "smollm2"]


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Every vocabulary of tests/data/tokenizer, unpacked and opened."""
    folder = tmp_path_factory.mktemp("tokenizer")
    opened = {}
    for name in NAMES:
        path = folder / f"{name}.gguf"
        path.write_bytes(lzma.decompress((DATA / f"{name}.gguf.xz").read_bytes()))
        opened[name] = Tokenizer.load(path)
    return opened


# ---- golden ids


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_llama_cpp(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    lines = (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()
    assert len(lines) > 150
    for line in lines:
        row = json.loads(line)
        assert tokenizer.encode(row["text"], parse_special=row["special"]) == row["ids"], row["text"]


# The file says what a vocabulary is; the defaults (llama-bpe puts bos in front, the others do not) are llama.cpp's.
@pytest.mark.parametrize(
    ("name", "bos", "eos", "eot", "add_bos"),
    [
        ("gpt-2", b"<|endoftext|>", b"<|endoftext|>", None, False),
        ("smollm2", b"<|im_start|>", b"<|im_end|>", None, False),
        ("llama-bpe", b"<|begin_of_text|>", b"<|end_of_text|>", b"<|eot_id|>", True),
        ("qwen2", b"<|endoftext|>", b"<|endoftext|>", b"<|im_end|>", False),
    ],
)
def test_what_a_vocabulary_says_of_itself(
    tokenizers: dict[str, Tokenizer], name: str, bos: bytes, eos: bytes, eot: bytes | None, add_bos: bool
) -> None:
    tokenizer = tokenizers[name]
    info = tokenizer.info
    assert info.model == "gpt2"
    assert info.pre == ("smollm" if name == "smollm2" else name)
    assert info.bos_id is not None and tokenizer.token_bytes(info.bos_id) == bos
    assert info.eos_id is not None and tokenizer.token_bytes(info.eos_id) == eos
    assert (None if info.eot_id is None else tokenizer.token_bytes(info.eot_id)) == eot
    assert (info.add_bos, info.add_eos) == (add_bos, False)
    assert tokenizer.encode("a", add_special=True) == [info.bos_id] * add_bos + tokenizer.encode("a")


def test_end_tokens_of_smollm2(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["smollm2"]
    ends = [i for i in range(tokenizer.info.n_vocab) if "end" in tokenizer.attributes(i)]
    assert [tokenizer.token_bytes(i) for i in ends] == [b"<|endoftext|>", b"<|im_end|>", b"<reponame>"]  # as llama.cpp has it


# ---- what must hold for any text


@given(text=st.binary(max_size=300))
@settings(deadline=None, max_examples=300)
def test_bytes_come_back(tokenizers: dict[str, Tokenizer], text: bytes) -> None:
    for name in ("gpt-2", "llama-bpe", "qwen2"):
        ids = tokenizers[name].encode(text)
        assert len(ids) <= len(text)
        assert tokenizers[name].decode_bytes(ids) == text


@given(text=st.text(max_size=200))
@settings(deadline=None, max_examples=300)
def test_text_comes_back(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for name in ("gpt-2", "llama-bpe", "qwen2"):
        assert tokenizers[name].decode(tokenizers[name].encode(text)) == text


@given(text=st.text(max_size=200))
@settings(deadline=None, max_examples=300)
def test_smollm2_loses_only_the_bytes_it_has_no_token_for(tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers["smollm2"]
    missing = b"\x04\x06\x13\x14\x16\x1d\xc0\xc1\xf1\xf2\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff"
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode().translate(None, missing)


SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


PLAIN = st.text(st.characters(exclude_characters="<", codec="utf-8"), max_size=20)


@given(parts=st.lists(st.tuples(PLAIN, st.sampled_from(SPECIAL))))
@settings(deadline=None, max_examples=200)
def test_special_tokens_are_found_where_they_are(tokenizers: dict[str, Tokenizer], parts: list[tuple[str, str]]) -> None:
    tokenizer = tokenizers["qwen2"]
    text = "".join(before + special for before, special in parts)
    ids = tokenizer.encode(text, parse_special=True)
    want, at = [], 0
    for before, special in parts:
        at += len(before.encode())
        want.append((at, special))
        at += len(special)
    found, at = [], 0
    for i in ids:
        piece = tokenizer.token_bytes(i)
        if "control" in tokenizer.attributes(i):
            found.append((at, piece.decode()))
        at += len(piece)
    assert found == want
    assert tokenizer.decode(ids, show_special=True) == text
    assert tokenizer.decode(ids) == "".join(before for before, _ in parts)


@given(parts=st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=5)), max_size=20))
@settings(deadline=None, max_examples=200)
def test_plain_text_never_becomes_a_control_token(tokenizers: dict[str, Tokenizer], parts: list[str]) -> None:
    for tokenizer in tokenizers.values():
        ids = tokenizer.encode("".join(parts))
        assert not any("control" in tokenizer.attributes(i) for i in ids)


def test_one_tokenizer_serves_many_threads(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["smollm2"]
    text = (Path(__file__).parent / "data" / "text" / "alice.txt").read_text("utf-8")
    want = tokenizer.encode(text)
    with ThreadPoolExecutor(4) as pool:
        assert all(ids == want for ids in pool.map(lambda _: tokenizer.encode(text), range(40)))


@pytest.mark.parametrize("name", WHOLE)
def test_a_very_long_word(tokenizers: dict[str, Tokenizer], name: str) -> None:
    for unit in ("a", " ", "\u0301", "'", "<|"):
        text = unit * (2**18 // len(unit.encode()))
        assert tokenizers[name].decode(tokenizers[name].encode(text)) == text


# ---- files that are refused


@pytest.mark.parametrize(
    ("model", "pre", "named"), [("bert", "bert-bge", "bert"), ("llama", "default", "llama"), ("gpt2", "no-such", "no-such")]
)
def test_other_tokenizers_are_named(tmp_path: Path, model: str, pre: str, named: str) -> None:
    gguf = Gguf()
    gguf.set("general.architecture", STRING, "llama")
    gguf.set("tokenizer.ggml.model", STRING, model)
    gguf.set("tokenizer.ggml.pre", STRING, pre)
    gguf.set("tokenizer.ggml.tokens", ARRAY, Array(STRING, ["a"]))
    gguf.set("tokenizer.ggml.token_type", ARRAY, Array(I32, [1]))
    gguf.set("tokenizer.ggml.scores", ARRAY, Array(F32, [0.0]))
    path = tmp_path / "other.gguf"
    path.write_bytes(gguf.to_bytes())
    with pytest.raises(UnsupportedModelError, match=f'"{named}"'):
        Tokenizer.load(path)
