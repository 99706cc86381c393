"""The tree of errors: who descends from whom, and that errors survive a trip between processes."""

from __future__ import annotations

import pickle
import re

import pytest

from cactus_py import errors

ALL = [getattr(errors, name) for name in errors.__all__]


def make(kind: type[errors.CactusError]) -> errors.CactusError:
    return errors.MissingExtraError("Speech", "audio") if kind is errors.MissingExtraError else kind("what is wrong")


def test_docstring_draws_every_class_under_its_parent() -> None:
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if match:
            drawn.append((len(match[1]) // 4, match[2]))
    assert sorted(name for _, name in drawn) == sorted(errors.__all__)
    path: list[str] = []
    for depth, name in drawn:
        path = [*path[:depth], name]
        if depth:
            assert getattr(errors, name).__base__ is getattr(errors, path[depth - 1]) or issubclass(
                getattr(errors, name), getattr(errors, path[depth - 1])
            )


@pytest.mark.parametrize(
    ("kind", "standard"),
    [
        (errors.InvalidRequestError, ValueError),
        (errors.ContextLengthError, ValueError),
        (errors.OutOfMemoryError, MemoryError),
        (errors.RequestTimeoutError, TimeoutError),
        (errors.MissingExtraError, ImportError),
    ],
)
def test_errors_are_also_the_standard_kind(kind: type[errors.CactusError], standard: type[Exception]) -> None:
    with pytest.raises(standard):
        raise make(kind)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_pickling(kind: type[errors.CactusError]) -> None:
    error = make(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert again.message == str(again) == str(error)


def test_attributes_survive_pickling() -> None:
    error = errors.ContextLengthError("too long", "messages", prompt_tokens=9, context_tokens=8)
    again = pickle.loads(pickle.dumps(error))
    assert (again.param, again.prompt_tokens, again.context_tokens) == ("messages", 9, 8)
    unknown = pickle.loads(pickle.dumps(errors.UnknownModelError("?", name="x", suggestions=("y",))))
    assert (unknown.name, unknown.suggestions) == ("x", ("y",))


def test_a_missing_extra_says_how_to_get_it() -> None:
    error = errors.MissingExtraError("Speech", "audio")
    assert 'pip install "cactus-py[audio]"' in str(error)
    assert (error.feature, error.extra) == ("Speech", "audio")
