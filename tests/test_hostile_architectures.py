"""Every architecture's files with one number or one tensor wrong: refused in a sentence or computed with, never a crash.

What the architectures share is in test_hostile_models.py; here each key of its own, and each tensor, takes its turn.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import gguf_edit
import pytest
from gguf_edit import ARRAY, BOOL, F32, F64, STRING, Array, Value
from packed import unpacked
from test_hostile_models import ACCEPTED, FORMAT, UNSUPPORTED, check_sentence, open_all
from test_zoo import ARCHITECTURES, model_file

REFUSED = {FORMAT, UNSUPPORTED, "OutOfMemoryError", "InvalidRequestError", "ContextLengthError"}
WHOLE_NUMBERS = (0, 1, 3, 7, 2**16, 2**31 - 1, 2**32 - 1)
UNREAD = {"gemma3n": r"blk\.5\.attn_[kv]"}  # a layer that shares keys and values does not read its own
REAL_NUMBERS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))


def damaged_values(value: Value) -> list[Value]:
    """The same key with other contents."""
    if value.kind in (F32, F64):
        return [Value(value.kind, number) for number in REAL_NUMBERS]
    if value.kind == BOOL:
        return [Value(BOOL, not value.data), Value(STRING, "yes")]
    if value.kind == STRING:
        return [Value(STRING, "bogus")]
    if value.kind == ARRAY:
        items = value.data.items
        changed = [Array(value.data.kind, [type(items[0])(number)] * len(items)) for number in (0, 1, 3)] if items else []
        return [Value(ARRAY, array) for array in [*changed, Array(value.data.kind, items[:-1]), Array(value.data.kind, [])]]
    return [Value(value.kind, number) for number in WHOLE_NUMBERS if number < 2 ** (8 * {4: 4, 5: 4}.get(value.kind, 1))]


def variants(path: Path) -> list[tuple[str, bytes]]:
    """What is wrong, and the file."""
    good = gguf_edit.read(path)
    prefix = bytes(good.values["general.architecture"].data).decode()
    found: list[tuple[str, bytes]] = []

    def add(label: str, change: object) -> None:
        gguf = gguf_edit.read(path)
        assert callable(change)
        change(gguf)
        found.append((label, gguf.to_bytes()))

    for key in [key for key in good.values if key.startswith(f"{prefix}.")]:
        add(f"without {key}", lambda gguf, key=key: gguf.values.pop(key))
        for i, value in enumerate(damaged_values(good.values[key])):
            add(f"{key} damaged {i}", lambda gguf, key=key, value=value: gguf.values.update({key: value}))
    layers = {0, max(int(n) for n in re.findall(r"blk\.(\d+)\.", " ".join(t.name.decode() for t in good.tensors)))}
    for tensor in good.tensors:
        name = tensor.name.decode()
        if name.startswith("blk.") and int(name.split(".")[1]) not in layers:
            continue
        add(f"without {name}", lambda gguf, name=name: gguf.remove_tensor(name))
        short = [tensor.dims[0], *tensor.dims[1:-1], tensor.dims[-1] - 1] if tensor.dims[-1] > 1 else [*tensor.dims, 2]
        add(f"{name} cut", lambda gguf, name=name, short=short: setattr(gguf.tensor(name), "dims", short))
    return found


def tensor_of(label: str) -> str | None:
    """The tensor that a case is about."""
    match = re.search(r"(?:^| )((?:blk|token|output|position|rope)\S*\.(?:weight|bias)|blk\.\d+\.\S+)", label)
    return match.group(1) if match else None


@pytest.mark.parametrize("name", [*ARCHITECTURES, "bert"])
def test_one_thing_wrong(zoo: Path, name: str) -> None:
    """No crash, no hang; a tensor that is missing or of another shape is named."""
    cases = variants(unpacked(zoo.parent / "embeddings" / "bert.gguf.xz") if name == "bert" else model_file(zoo, name))
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, (_, data) in enumerate(cases):
            paths.append(Path(folder) / f"{i:03}.gguf")
            paths[-1].write_bytes(data)
        outcomes = open_all(paths)
    n_refused = 0
    for (label, _), outcome in zip(cases, outcomes, strict=True):
        assert outcome.outcome in REFUSED | {ACCEPTED}, (label, outcome)
        if outcome.outcome == ACCEPTED:
            if re.search(UNREAD.get(name, "^$"), label):
                continue
            # What may be missing: a bias, a head of its own, a norm that some have, rotary factors, a shared expert's gate.
            optional = re.search(r"\.bias$|output\.weight|rope_f|_norm|gate_inp_shexp|ssm_norm", label)
            assert not label.startswith(("without blk", "without output", "without token")) or optional, label
            assert " cut" not in label, label
            continue
        n_refused += 1
        check_sentence(outcome.message)
        culprit = tensor_of(label)
        if culprit is not None and label.endswith(" cut"):
            # The rank of a low-rank branch is known from its first factor: it is the second one that does not fit.
            culprit = culprit.replace("blk.0.laurel_l", "blk.0.laurel_r")
            assert culprit in outcome.message, (label, outcome.message)
    assert n_refused > len(cases) // 3
