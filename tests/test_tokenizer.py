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
BYTE_LEVEL = ["gpt-2", "smollm2", "llama-bpe", "qwen2"]
PIECES = ["llama-spm", "gemma-4", "nomic-bert-moe", "bert-bge"]
NAMES = [*BYTE_LEVEL, *PIECES]
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
def test_ids_are_those_of_the_peers(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    lines = (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()
    assert len(lines) > 100
    for line in lines:
        row = json.loads(line)
        assert tokenizer.encode(row["text"], parse_special=row["special"]) == row["ids"], row["text"]


# As Hugging Face's tokenizers 0.23.3. To BERT's rules marks and punctuation that Unicode has got since version 8 are letters,
# and two characters are still of the class that they had then.
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a\u0c77b", ["[UNK]"]),
        ("a\u07fdb", ["[UNK]"]),
        ("a\u08e2b", ["[UNK]"]),
        ("a\u2e52b c", ["[UNK]", "c"]),
        ("a\u166db", ["a", "[UNK]", "b"]),
        ("\U000111c9a", ["[UNK]", "a"]),
        ("a\u1734b", ["ab"]),
        ("a\u0301b", ["ab"]),
    ],
)
def test_classes_of_characters_are_berts(tokenizers: dict[str, Tokenizer], text: str, pieces: list[str]) -> None:
    tokenizer = tokenizers["bert-bge"]
    assert [tokenizer.token_bytes(i).decode().strip("\u2581 ") for i in tokenizer.encode(text)] == pieces


# The same package. SmolLM2 has no tokens for the bytes F1 and F2, nor for some controls: what stood on both sides of one is
# merged. U+1419E is a letter since Unicode 16.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\x04\x06b\x13\x14\x16the", [81, 82, 1195]),
        ("\U0004be75\U0008bf12x", [229, 134, 130, 229, 137, 236, 104]),
        ("\u4141\U000414e9'd\U0001419e's", [175, 223, 219, 219, 237, 119, 23, 84, 187, 238, 224, 248, 506]),
    ],
)
def test_bytes_without_a_token_leave_no_gap(tokenizers: dict[str, Tokenizer], text: str, ids: list[int]) -> None:
    assert tokenizers["smollm2"].encode(text) == ids


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


# bert has cls and sep in place of bos and eos; what they are called is its own affair.
@pytest.mark.parametrize(
    ("name", "model", "front", "back"),
    [
        ("llama-spm", "llama", [b"<s>"], []),
        ("gemma-4", "gemma4", [b"<bos>"], []),
        ("nomic-bert-moe", "t5", [b"<s>"], [b"</s>"]),
        ("bert-bge", "bert", [b"[CLS]"], [b"[SEP]"]),
    ],
)
def test_what_goes_around_a_text(
    tokenizers: dict[str, Tokenizer], name: str, model: str, front: list[bytes], back: list[bytes]
) -> None:
    tokenizer = tokenizers[name]
    assert tokenizer.info.model == model
    plain, whole = tokenizer.encode("the end"), tokenizer.encode("the end", add_special=True)
    assert whole[len(front) : len(whole) - len(back)] == plain
    assert [tokenizer.token_bytes(i) for i in whole[: len(front)]] == front
    assert [tokenizer.token_bytes(i) for i in whole[len(whole) - len(back) :]] == back
    assert tokenizer.decode(whole) == "the end"


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("Hello, World! Is it?", "hello, world! is it?"),
        ("he said: i don't", "he said : i don't"),
        ("3.5 (b)", "3. 5 ( b )"),
        ("she's, they've", "she's, they've"),
    ],
)
def test_wordpiece_closes_up_punctuation(tokenizers: dict[str, Tokenizer], text: str, back: str) -> None:
    """The expected texts follow llama.cpp's rules for the spaces that WordPiece leaves."""
    tokenizer = tokenizers["bert-bge"]
    ids = tokenizer.encode(text)
    assert tokenizer.info.unk_id not in ids
    assert tokenizer.decode(ids) == back


def test_a_piece_keeps_its_space_and_a_text_does_not(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["llama-spm"]
    ids = tokenizer.encode("the", add_special=True)
    assert [tokenizer.token_bytes(i) for i in ids] == [b"<s>", b" the"]
    assert tokenizer.decode(ids) == "the"
    assert tokenizer.decode(ids, show_special=True) == "<s>the"
    assert tokenizer.decode(tokenizer.encode("  the")) == "  the"


def test_a_text_that_grows_when_it_is_normalised(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["nomic-bert-moe"]
    text = "\u3392\u33a7" * 60  # MHz and m/s, which NFKC spells out
    ids = tokenizer.encode(text)
    assert ids == tokenizer.encode(text.replace("\u3392", "MHz").replace("\u33a7", "m\u2215s"))
    assert tokenizer.decode(ids) == "MHzm\u2215s" * 60 or tokenizer.info.unk_id in ids


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
    for name in ("llama-spm", "gemma-4"):  # where U+2581 is a space
        assert tokenizers[name].decode(tokenizers[name].encode(text)) == text.replace("\u2581", " ")


@given(text=st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_some_tokens(tokenizers: dict[str, Tokenizer], text: bytes) -> None:
    for name in PIECES:
        tokenizer = tokenizers[name]
        ids = tokenizer.encode(text)
        assert all(0 <= i < tokenizer.info.n_vocab for i in ids)
        assert tokenizer.decode(ids) == tokenizer.decode_bytes(ids).decode("utf-8", "replace")
        if name in ("llama-spm", "gemma-4"):
            assert tokenizer.decode_bytes(ids) == text.replace("\u2581".encode(), b" ")


@given(words=st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)))
@settings(deadline=None, max_examples=200)
def test_words_do_not_know_of_each_other(tokenizers: dict[str, Tokenizer], words: list[str]) -> None:
    """A word's tokens are the same alone and in a long text, where they come from memory the second time."""
    for name in ("llama-spm", "nomic-bert-moe"):  # where the next word begins with a space of its own
        tokenizer = tokenizers[name]
        alone = [i for word in words for i in tokenizer.encode(word)]
        assert tokenizer.encode(" ".join(words)) == alone
    tokenizer = tokenizers["bert-bge"]
    assert tokenizer.encode(" ".join(words * 40)) == [i for word in words for i in tokenizer.encode(word)] * 40


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
        assert not any("control" in tokenizer.attributes(i) and i != tokenizer.info.unk_id for i in ids)


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
    ("model", "pre", "named"),
    [("plamo2", "default", "plamo2"), ("hybriddna", "default", "hybriddna"), ("gpt2", "no-such", "no-such")],
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
