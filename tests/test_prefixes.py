"""Prompts that begin like earlier ones: what was computed is found again, in memory and on disk, and nothing of it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_zoo import ARCHITECTURES, GREEDY, longest_tokens, model_file, opened

from cactus_py.engine import Generation, Model, Token
from cactus_py.errors import InvalidRequestError, ModelFileError, ModelFormatError

KEY = b"sha256 of the model"


def answer(model: Model, ids: list[int], *, share: bool = True) -> tuple[list[Token], int]:
    """Twelve tokens, and how many of the prompt's were found."""
    with model.generate(ids, max_tokens=12, sampling=GREEDY, share_prefix=share) as generation:
        return list(generation), generation.stats.cached_tokens


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_finds_its_prefix(zoo: Path, tmp_path: Path, name: str) -> None:
    """Also those with a state, which is kept where the pages of a prompt end, with windows, with compressed keys."""
    with opened(model_file(zoo, name)) as model:
        n = min(80, model.context - 12)
        ids = (longest_tokens(zoo, name) * 3)[:n]
        other_end = [*ids[:-8], *ids[:8]]
        pages = (n - 8) // 32 * 32
        alone, found = answer(model, ids, share=False)
        assert found == 0 < pages
        other_alone, found = answer(model, other_end, share=False)
        assert found == 0
        assert answer(model, ids) == (alone, 0)
        assert answer(model, ids) == (alone, pages)
        assert answer(model, other_end) == (other_alone, pages)
        assert model.save_prefixes(tmp_path / "prefixes", KEY) >= pages
        assert model.memory().kv_pages_used == 0
    with opened(model_file(zoo, name)) as model:
        assert model.load_prefixes(tmp_path / "prefixes", KEY) >= pages
        assert answer(model, ids) == (alone, pages)


def test_a_chat_goes_on_where_it_was(zoo: Path) -> None:
    """The second turn holds the first one's prompt and answer; only what is new is read."""
    with opened(model_file(zoo, "llama-yarn")) as model:
        ids = (longest_tokens(zoo, "llama-yarn") * 3)[:60]
        said, _ = answer(model, ids)
        turn = [*ids, *(token.id for token in said[:-1]), 5, 6, 7]
        _, found = answer(model, turn)
        assert found == 64
        activity = model.activity()
        assert (activity.prompt_tokens, activity.cached_tokens) == (60 + len(turn), 64)
        assert activity.kv_pages_used == 0 < activity.kv_pages_cached


@pytest.mark.parametrize("name", ["qwen35", "mamba2"])
def test_the_state_of_an_answer_is_kept(zoo: Path, name: str) -> None:
    ids = (longest_tokens(zoo, name) * 3)[:40]
    with opened(model_file(zoo, name)) as model:
        with model.generate(ids, max_tokens=60, sampling=GREEDY) as generation:
            said = [token.id for token in generation]
        turn = [*ids, *said, 7]
        _, found = answer(model, turn)
        assert found == 96  # of 99 tokens that were computed


def test_requests_that_come_together_share(zoo: Path) -> None:
    ids = (longest_tokens(zoo, "qwen35") * 3)[:90]
    with opened(model_file(zoo, "qwen35")) as model:
        alone, _ = answer(model, ids, share=False)
        running: list[Generation] = [model.generate(ids, max_tokens=12, sampling=GREEDY) for _ in range(5)]
        assert [list(generation) for generation in running] == [alone] * 5
        assert model.activity().cached_tokens == 4 * 64


def test_prefixes_can_be_switched_off(zoo: Path, tmp_path: Path) -> None:
    ids = longest_tokens(zoo, "qwen35")[:40]
    with Model.load(model_file(zoo, "qwen35"), threads=1, share_prefixes=False) as model:
        assert answer(model, ids) == answer(model, ids)
        assert model.activity().kv_pages_cached == 0
        with pytest.raises(InvalidRequestError, match="keeps no prefixes"):
            model.load_prefixes(tmp_path / "none", KEY)


def test_files_that_do_not_fit_are_refused(zoo: Path, tmp_path: Path) -> None:
    path = tmp_path / "prefixes"
    with opened(model_file(zoo, "mamba")) as model:
        answer(model, longest_tokens(zoo, "mamba")[:50])
        model.save_prefixes(path, KEY)
        with pytest.raises(ModelFormatError, match="belongs to another model"):
            model.load_prefixes(path, b"another")
        with pytest.raises(ModelFileError):
            model.load_prefixes(tmp_path / "none", KEY)
        with pytest.raises(ModelFileError):
            model.save_prefixes(tmp_path / "no folder" / "prefixes", KEY)
        with pytest.raises(InvalidRequestError, match="a key of 1 to 64 bytes"):
            model.save_prefixes(path, b"")
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(ModelFormatError):
            model.load_prefixes(path, KEY)
    with opened(model_file(zoo, "qwen35")) as other, pytest.raises(ModelFormatError, match="belongs to another model"):
        other.load_prefixes(path, KEY)
