"""Making a conversation fit the context of a model.

Under the policy "error" a prompt that does not fit is refused, with the numbers and what can be done. Under "shift" the
oldest turns are left out, whole (a user's message with everything up to the next one), until the prompt and a reserve for the
reply fit. System messages and the newest turn always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ContextLengthError, TemplateError

__all__ = ["FittedPrompt", "fit_messages", "fit_tokens"]

Message = Mapping[str, Any]
Encode = Callable[[Sequence[Message]], list[int]]


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits: its ids, how many of them at the front a shift must keep, how many messages were left out."""

    ids: list[int]
    keep_tokens: int = 0
    dropped_messages: int = 0


def fit_messages(
    encode: Encode,
    messages: Sequence[Message],
    *,
    context_tokens: int,
    policy: Literal["error", "shift"],
    max_tokens: int | None = None,
) -> FittedPrompt:
    """Encodes the messages, leaving out turns if the policy allows and the context demands it.

    Raises ContextLengthError if the prompt leaves no room for a single token, whatever was left out.
    """
    ids = encode(messages)
    if policy == "error":
        _check(len(ids), context_tokens, 'shorten the messages, use a larger context, or ask for context_policy="shift"')
        return FittedPrompt(ids)

    room = context_tokens - _reserve(context_tokens, max_tokens)
    dropped = 0
    if len(ids) > room:
        droppable = _droppable_turns(messages)

        def without(n_turns: int) -> list[Message]:
            gone = {index for turn in droppable[:n_turns] for index in turn}
            return [message for index, message in enumerate(messages) if index not in gone]

        low, high = 1, len(droppable)  # fewest turns to leave out; a shorter conversation never has more tokens
        while low < high:
            middle = (low + high) // 2
            if len(encode(without(middle))) <= room:
                high = middle
            else:
                low = middle + 1
        if droppable:
            messages, n_before = without(low), len(messages)
            dropped = n_before - len(messages)
            ids = encode(messages)
    _check(len(ids), context_tokens, "shorten the system prompt or the newest message, or use a larger context")
    return FittedPrompt(ids, _system_tokens(encode, messages, ids, context_tokens), dropped)


def fit_tokens(
    ids: list[int],
    *,
    context_tokens: int,
    policy: Literal["error", "shift"],
    keep_tokens: int = 0,
    max_tokens: int | None = None,
    n_reply: int = 1,
) -> FittedPrompt:
    """The same for a plain prompt, which has no turns: under "shift" its oldest tokens after the first `keep_tokens` go.
    n_reply: tokens that there must be room for; 0 where none shall be generated.
    """
    if policy == "error":
        _check(
            len(ids),
            context_tokens,
            'shorten the prompt, use a larger context, or ask for context_policy="shift"',
            "prompt",
            n_reply,
        )
        return FittedPrompt(ids)
    room = context_tokens - _reserve(context_tokens, max_tokens)
    if len(ids) > room:
        ids = ids[:keep_tokens] + ids[len(ids) - max(1, room - keep_tokens) :]
    _check(len(ids), context_tokens, "use a larger context", "prompt", n_reply)
    return FittedPrompt(ids, keep_tokens)


def _reserve(context_tokens: int, max_tokens: int | None) -> int:
    """Tokens to leave free for the reply: what was asked for, at most a quarter of the context."""
    quarter = max(1, context_tokens // 4)
    return min(quarter, max_tokens) if max_tokens else quarter


def _check(n_prompt: int, context_tokens: int, advice: str, param: str = "messages", n_reply: int = 1) -> None:
    if n_prompt + n_reply > context_tokens:
        included = ", reply included" if n_reply else ""
        raise ContextLengthError(
            f"the prompt has {n_prompt} tokens and the context holds {context_tokens}{included}: {advice}",
            param,
            prompt_tokens=n_prompt,
            context_tokens=context_tokens,
        )


def _droppable_turns(messages: Sequence[Message]) -> list[list[int]]:
    """Positions of the messages of each turn, oldest first, without system messages and without the newest turn."""
    turns: list[list[int]] = [[]]
    for index, message in enumerate(messages):
        if message["role"] == "user" and turns[-1]:
            turns.append([])
        if message["role"] not in ("system", "developer"):
            turns[-1].append(index)
    return turns[:-1]


def _system_tokens(encode: Encode, messages: Sequence[Message], ids: list[int], context_tokens: int) -> int:
    """Tokens at the front that do not depend on what the user says: template preamble and system messages, together with
    the header of the first turn, into which the text that is left after a shift then falls."""
    head = []
    for message in messages:
        if message["role"] not in ("system", "developer"):
            break
        head.append(message)
    try:
        probes = [encode([*head, {"role": "user", "content": text}]) for text in ("A", "7")]
    except TemplateError:
        return 0
    count = 0
    for first, second, actual in zip(*probes, ids, strict=False):
        if not first == second == actual:
            break
        count += 1
    return min(count, context_tokens // 2)
