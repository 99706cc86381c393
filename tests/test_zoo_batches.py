"""Every architecture in company: what a sequence gets depends neither on the others in the batch nor on who had memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_zoo import ARCHITECTURES, EOS, GREEDY, longest_tokens, model_file, opened

from cactus_py.engine import Model, Token

RECURRENT = ["falcon-h1", "mamba", "mamba2", "qwen35", "qwen35moe"]


def requests(ids: list[int]) -> list[tuple[list[int], dict[str, Any]]]:
    """Prompts of one token to nearly all, greedy and not, with drafts and without; some begin alike."""
    return [
        (ids[:30], {"speculation": 8}),
        (ids[:1], {}),
        (ids[3:50], {}),
        (ids[:30], {"sampling": GREEDY | {"temperature": 1.0, "seed": 5}}),
        (ids[10:17], {"speculation": 16}),
        (ids[:47] + ids[:8], {"speculation": 4, "sampling": GREEDY | {"temperature": 0.7, "seed": 1, "top_p": 0.9}}),
    ]


def start(model: Model, ids: list[int], options: dict[str, Any]) -> Any:
    """One generation of 24 tokens."""
    return model.generate(ids, **({"max_tokens": 24, "sampling": GREEDY} | options))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_company_changes_nothing(zoo: Path, name: str) -> None:
    """Six requests at once are the six alone, also where memory lasts for two and a step for seven tokens."""
    asked = requests(longest_tokens(zoo, name))
    with opened(model_file(zoo, name)) as model:
        alone: list[list[Token]] = [list(start(model, *request)) for request in asked]
        assert [list(generation) for generation in [start(model, *request) for request in asked]] == alone
        page = model.memory().kv_page_bytes
    with opened(model_file(zoo, name), kv_memory=5 * page, batch=7) as tight:
        assert [list(generation) for generation in [start(tight, *request) for request in asked]] == alone
        assert tight.memory().kv_pages_used == 0


@pytest.mark.parametrize("name", [*RECURRENT, "phi3-longrope", "gemma3"])
def test_a_shifted_context_is_read_again(zoo: Path, name: str) -> None:
    """A state cannot forget the middle of a text; what remains of the context is read from the start."""
    n_context, keep = 48, 5
    prompt = longest_tokens(zoo, name)[:24]
    with opened(model_file(zoo, name), context=n_context) as small:
        tokens = [
            event.id
            for event in small.generate(prompt, max_tokens=70, sampling=GREEDY, context_policy="shift", keep=keep)
            if event.id is not None
        ]
    window = list(prompt)
    with opened(model_file(zoo, name)) as model:
        for token in tokens:
            scores = model.logits(window)[-1]
            scores[EOS] = -np.inf
            assert token == scores.argmax()
            window.append(token)
            if len(window) > n_context:
                window = prompt[:keep] + window[-((n_context - keep) // 2) :]


def test_a_shift_back_into_the_original_context(zoo: Path) -> None:
    """Keys turn by other factors there: what is read again is read with those, in whatever chunks."""
    name = "phi3-longrope"  # whose original context is 32
    prompt = longest_tokens(zoo, name)[:24]
    found: list[list[Token]] = []
    for batch in (1, 512):
        with opened(model_file(zoo, name), context=48, batch=batch) as model:
            found.append(list(model.generate(prompt, max_tokens=70, sampling=GREEDY, context_policy="shift", keep=5)))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", RECURRENT)
def test_scores_between_steps_leave_states_alone(zoo: Path, name: str) -> None:
    """`logits` of another text has a state of its own."""
    ids = longest_tokens(zoo, name)
    with opened(model_file(zoo, name)) as model:
        alone, wanted = list(start(model, ids[:20], {})), model.logits(ids)
        generation = start(model, ids[:20], {})
        for _ in range(4):
            assert np.array_equal(model.logits(ids), wanted)
        assert list(generation) == alone
