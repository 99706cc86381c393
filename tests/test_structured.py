"""Answers of a given form: masks against the JSON Schema Test Suite, and answers of real and of scripted models."""

from __future__ import annotations

import functools
import json
import lzma
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import CONTROL, USER_DEFINED, scripted_llama

from cactus_py import Client, InvalidRequestError, MissingExtraError
from cactus_py.engine import Tokenizer
from cactus_py.prompting import structured
from cactus_py.prompting.reasoning import FORMATS, Format
from cactus_py.prompting.structured import (
    Constraint,
    Grammar,
    Structured,
    json_grammar,
    lark_grammar,
    reasoning_prefix,
    regex_grammar,
)

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

SUITE = Path(__file__).parent / "data" / "json_schema"
VALIDATORS = {"draft7": jsonschema.Draft7Validator, "draft2020-12": jsonschema.Draft202012Validator}
CASES = [
    pytest.param(file.parent.name, case, id=f"{file.parent.name}-{file.stem}-{case['description']}")
    for file in sorted(SUITE.glob("*/*.json"))
    for case in json.loads(file.read_text(encoding="utf-8"))
]
REFUSED = {  # llguidance has no way to enforce these, or nothing satisfies them
    "additionalProperties with propertyNames",
    "dependentSchemas with additionalProperties",
    "anyOf with boolean schemas, all false",
    "boolean schema 'false'",
}
OTHER_ORDER = "same object with different property order is valid"  # valid, and never written that way
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age"],
}


def unpacked(name: str, folder: Path) -> Tokenizer:
    path = folder / f"{name}.gguf"
    path.write_bytes(lzma.decompress((Path(__file__).parent / "data" / "tokenizer" / f"{name}.gguf.xz").read_bytes()))
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """SmolLM2's vocabulary."""
    return unpacked("smollm2", tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Structured:
    return Structured(tokenizer)


def allowed(constraint: Constraint) -> set[int]:
    return set(ids_of(constraint).tolist())


def ids_of(constraint: Constraint) -> NDArray[np.int64]:
    return np.nonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little"))[0]


def takes(constraint: Constraint, ids: list[int]) -> bool:
    """Whether the masks let these tokens through, and an end after them."""
    for i in ids:
        if not int(constraint.mask()[i >> 5]) >> (i & 31) & 1:
            return False
        constraint.accept(i)
    return constraint.satisfied and bool(int(constraint.mask()[0]) >> 2 & 1)


def drawn(owner: Structured, constraint: Constraint, budget: int, seed: int) -> tuple[str, bool]:
    """A text of tokens drawn from the masks, those that change the structure more often; and whether it ended by itself."""
    draw, raw = random.Random(seed), b""
    marks = structure(owner)
    for _ in range(budget):
        ids = ids_of(constraint)
        if draw.random() < 0.3 and owner.ends & set(ids[:1000].tolist()):
            return raw.decode(), True
        marked = ids[marks[ids]] if draw.random() < 0.4 else ids[:0]
        chosen = int(draw.choice(marked if len(marked) else ids))
        if chosen in owner.ends:
            return raw.decode(), True
        constraint.accept(chosen)
        raw += owner.token_bytes[chosen]
    return raw.decode("utf-8", "replace"), False


@functools.cache
def structure(owner: Structured) -> NDArray[np.bool_]:
    """Which tokens hold a character that means something in JSON."""
    return np.array([re.search(rb'[{}\[\]",:\\]', raw) is not None for raw in owner.token_bytes] + [False] * 32)


# ---- the test suite of JSON Schema -------------------------------------------------------------------------------------


def whole(value: Any) -> Any:
    """1.0 and 1 are one number to JSON Schema; masks let it be written in one way."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize(("draft", "case"), CASES)
def test_masks_take_what_is_valid_and_nothing_else(
    vocabulary: Structured, tokenizer: Tokenizer, draft: str, case: dict[str, Any]
) -> None:
    """The suite's own instances, token by token; then texts drawn from the masks, judged by the package jsonschema."""
    schema = case["schema"]
    if case["description"] in REFUSED:
        with pytest.raises(InvalidRequestError, match="response_format: "):
            vocabulary.constraint(json_grammar(schema), budget=1000)
        return
    grammar = json_grammar(schema)
    for test in case["tests"]:
        if test["description"] == OTHER_ORDER:
            continue
        text = json.dumps(whole(test["data"]) if test["valid"] else test["data"], ensure_ascii=False)
        found = takes(vocabulary.constraint(grammar, budget=1000), tokenizer.encode(text))
        assert found == test["valid"], (schema, text)
    for seed in range(2):
        text, ended = drawn(vocabulary, vocabulary.constraint(grammar, budget=24), 24, seed)
        assert ended, (schema, text)
        VALIDATORS[draft](schema).validate(json.loads(text))


# ---- what else a form can be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (regex_grammar(r"\d{3}-[a-c]+"), ["123-abc", "000-a"], ["12-a", "123-", "123-abd", "٣٣٣-a"]),
        (regex_grammar("(grün|blau|красный)"), ["grün", "красный"], ["grun", "красны"]),
        (lark_grammar('start: a ("," a)*\na: /[0-9]+/'), ["1", "1,22,3"], [",", "1,"]),
        (lark_grammar('start: "<" %json {"type": "integer"} ">"'), ["<12>"], ["<a>", "12"]),
        (lark_grammar('root ::= "yes" | "no"'), ["yes", "no"], ["maybe", ""]),
        (structured.choice_grammar(["red", 'a "b"\n']), ["red", 'a "b"\n'], ["re", "blue"]),
        (json_grammar({"enum": ["é", "日本", "😀", 'a"b', "\t"]}), ['"日本"', '"😀"', r'"a\"b"', r'"\t"'], ['"日"', '"e"']),
        (json_grammar({"minItems": 2.0, "maxItems": 3.0, "type": "array"}), ["[1, 2]"], ["[1]", "[1,2,3,4]"]),
        (json_grammar(True), ["1", '{"a": [null]}'], ["nil"]),
        (json_grammar(PERSON), ['{"name": "a", "age": 1}', '{\n  "name": "a",\n  "age": 1\n}'], ['{"name":    "a", "age": 1}']),
        # A name that is only spelled otherwise is the same name.
        (json_grammar(PERSON), ['{"name": "a", "age": 1, "x": 2}'], ['{"name": "a", "age": 1, "n\\u0061me": 2}']),
    ],
)
def test_grammars(vocabulary: Structured, tokenizer: Tokenizer, grammar: Grammar, good: list[str], bad: list[str]) -> None:
    for text in good:
        assert takes(vocabulary.constraint(grammar, budget=1000), tokenizer.encode(text)), text
    for text in bad:
        assert not takes(vocabulary.constraint(grammar, budget=1000), tokenizer.encode(text)), text


def test_every_token_that_ends_is_allowed_where_the_grammar_ends(vocabulary: Structured, tokenizer: Tokenizer) -> None:
    ends = set(tokenizer.ids_with("end"))
    assert len(ends) > 1
    constraint = vocabulary.constraint(regex_grammar("ab?"), budget=100)
    assert not allowed(constraint) & ends
    constraint.accept(tokenizer.encode("a")[0])
    assert ends < allowed(constraint) and constraint.satisfied and not constraint.complete
    constraint.accept(tokenizer.encode("b")[0])
    assert allowed(constraint) == ends and constraint.complete


def test_control_tokens_are_no_text(vocabulary: Structured, tokenizer: Tokenizer) -> None:
    constraint = vocabulary.constraint(regex_grammar("(?s:.*)"), budget=100)
    control = set(tokenizer.ids_with("control")) - set(tokenizer.ids_with("end"))
    assert control and not allowed(constraint) & control
    start = tokenizer.encode("<|im_start|>", parse_special=True)
    constraint = vocabulary.constraint(lark_grammar(f"start: {vocabulary.literal('<|im_start|>x')}"), budget=100)
    assert takes(constraint, [*start, *tokenizer.encode("x")])


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "llama-spm", "gemma-4"])
def test_other_vocabularies(name: str, tmp_path: Path) -> None:
    """BPE over bytes, SentencePiece with bytes, parts of vocabularies."""
    owner = Structured(unpacked(name, tmp_path))
    for seed in range(4):
        text, ended = drawn(owner, owner.constraint(json_grammar(PERSON), budget=80), 80, seed)
        assert ended
        VALIDATORS["draft7"](PERSON).validate(json.loads(text))


# ---- ending in time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [16, 40])
@pytest.mark.parametrize(
    "schema",
    [
        PERSON,
        {"type": "object"},
        {"type": "array", "minItems": 2},
        {"type": "string", "pattern": "a.b"},
        {"type": "string", "pattern": "^.*\\.com$"},
        {"type": "string", "minLength": 8},
        {"type": "number"},
        {
            "$ref": "#/$defs/n",
            "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}, "v": {"type": "null"}}}},
        },
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_answers_end_within_their_budget(vocabulary: Structured, schema: dict[str, Any], budget: int) -> None:
    for seed in range(3):
        text, ended = drawn(vocabulary, vocabulary.constraint(json_grammar(schema), budget=budget), budget, seed)
        assert ended, text
        VALIDATORS["draft2020-12"](schema).validate(json.loads(text))


def test_numbers_do_not_go_on_for_ever(vocabulary: Structured, tokenizer: Tokenizer) -> None:
    constraint = vocabulary.constraint(json_grammar({"type": "integer"}), budget=1000)
    digit = tokenizer.encode("7")[0]
    n = 0
    while digit in allowed(constraint):
        constraint.accept(digit)
        n += 1
    assert n == 32 and constraint.satisfied


def test_a_limit_below_the_shortest_answer_changes_nothing(vocabulary: Structured) -> None:
    constraint = vocabulary.constraint(json_grammar(PERSON), budget=4)
    text, ended = drawn(vocabulary, constraint, 4, seed=3)
    assert not ended and text.startswith("{")


# ---- reasoning ---------------------------------------------------------------------------------------------------------


class Renamed:
    """A vocabulary in which some control tokens have other names."""

    def __init__(self, tokenizer: Tokenizer, names: tuple[str, ...]) -> None:
        self._tokenizer, self.info = tokenizer, tokenizer.info
        self._names = {5 + i: name.encode() for i, name in enumerate(names)}
        self.ids = {name: 5 + i for i, name in enumerate(names)}

    def encode(self, text: str | bytes, add_special: bool = False, parse_special: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special, parse_special)

    def token_bytes(self, token_id: int, /) -> bytes:
        return self._names.get(token_id) or self._tokenizer.token_bytes(token_id)

    def ids_with(self, *names: str) -> list[int]:
        return self._tokenizer.ids_with(*names)

    def spelled(self, text: str) -> list[int]:
        """Ids of a text in which control tokens count."""
        if not self.ids:
            return self.encode(text)
        parts = re.split("(" + "|".join(map(re.escape, self.ids)) + ")", text)
        return [i for part in parts for i in ([self.ids[part]] if part in self.ids else self.encode(part))]


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("form", [form for form in FORMATS if form.name != "harmony"], ids=lambda form: form.name)
def test_every_way_to_mark_reasoning_may_come_first(tokenizer: Tokenizer, form: Format, control: bool) -> None:
    renamed = Renamed(tokenizer, (form.token, form.end) if control else ())
    owner = Structured(renamed)
    object_grammar = json_grammar({"type": "object"})
    for prompt, answers, others in (
        (
            "x",
            [form.start + "so {} <b" + form.end + '\n\n{"a": 1}', '{"a": 1}'],
            ["so" + form.end + "{}", form.start + "so {}"],
        ),
        ("x" + form.start, ["so" + form.end + "{}", form.end + "\n{}"], ["{}", form.start + "so {}"]),
        ("x" + form.start + "\n\n" + form.end + "\n\n", ["{}"], [form.start + "so" + form.end + "{}"]),
    ):
        prefix = reasoning_prefix(form, prompt, owner.marker)
        for text in answers:
            assert takes(owner.constraint(object_grammar, budget=1000, prefix=prefix), renamed.spelled(text)), (prompt, text)
        for text in others:
            assert not takes(owner.constraint(object_grammar, budget=1000, prefix=prefix), renamed.spelled(text)), (
                prompt,
                text,
            )
        text, ended = drawn(owner, owner.constraint(object_grammar, budget=24, prefix=prefix), 24, seed=1)
        assert ended, text


def test_harmony(tokenizer: Tokenizer) -> None:
    renamed = Renamed(tokenizer, ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"))
    owner = Structured(renamed)
    final = "<|channel|>final<|message|>"
    thought = "<|channel|>analysis<|message|>hm { <|end|><|start|>assistant"
    prefix = reasoning_prefix(FORMATS[0], "<|start|>assistant", owner.marker)
    for text, good in ((thought + final + "{}", True), (final + "{}", True), ("{}", False), (thought + "{}", False)):
        assert takes(owner.constraint(json_grammar(True), budget=1000, prefix=prefix), renamed.spelled(text)) == good, text
    for seed in range(3):
        assert drawn(owner, owner.constraint(json_grammar(True), budget=30, prefix=prefix), 30, seed)[1]
    assert reasoning_prefix(FORMATS[0], "<|start|>assistant" + final, owner.marker) is None


# ---- hostile forms -----------------------------------------------------------------------------------------------------


def chained(n: int) -> dict[str, Any]:
    defs: dict[str, Any] = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(n)}
    return {"$defs": {**defs, f"d{n}": {}}, "$ref": "#/$defs/d0"}


def nested(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(n):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: json_grammar({"type": "objekt"}), "Invalid type"),
        (lambda: json_grammar({"uniqueItems": True}), 'not supported: "uniqueItems"'),
        (lambda: json_grammar({"oneOf": [{"type": "string"}, {"minLength": 2}]}), "oneOf"),
        (lambda: json_grammar({"minProperties": 2}), "minProperties"),
        (lambda: json_grammar({"$ref": "#"}), "nothing satisfies"),
        (
            lambda: json_grammar({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            "nothing",
        ),
        (lambda: json_grammar({"$ref": "#/nowhere"}), "does not exist"),
        (lambda: json_grammar({"$ref": "https://example.com/schema"}), "is not present"),
        (lambda: json_grammar(chained(20_000)), "nested too deeply|possible"),
        (lambda: json_grammar(nested(3000)), "nested too deeply|recursion"),
        (lambda: json_grammar({"enum": ["x" * 1_100_000]}), "possible"),
        (lambda: json_grammar({"multipleOf": 99_999_989}), "multipleOf"),
        (lambda: json_grammar({"allOf": [{"multipleOf": 99_991}, {"multipleOf": 99_989}]}), "multipleOf"),
        (lambda: json_grammar({"minimum": 3, "maximum": 2, "type": "integer"}), "minimum"),
        (lambda: json_grammar({"default": float("nan")}), "not JSON"),
        (lambda: json_grammar({"default": {1, 2}}), "not JSON"),
        (lambda: json_grammar([1]), "should be an object"),  # type: ignore[arg-type]
        (lambda: json_grammar({"pattern": "(a", "type": "string"}), "unclosed|pattern|regex"),
        (lambda: regex_grammar("(a"), "unclosed group"),
        (lambda: regex_grammar(r"(a)\1"), "backreferences"),
        (lambda: regex_grammar("(" * 5000 + "a" + ")" * 5000), "nest|regex"),
        (lambda: regex_grammar(""), "not empty"),
        (lambda: lark_grammar("start: start"), "nothing satisfies"),
        (lambda: lark_grammar("start: missing"), "missing"),
        (lambda: lark_grammar('start: A\nA: A "x"'), "circular"),
        (lambda: lark_grammar("start: " + "|".join(f'"a{i}"' for i in range(100_000))), "possible"),
        (lambda: structured.choice_grammar([]), "at least one"),
    ],
)
def test_bad_forms_are_refused_in_one_sentence(vocabulary: Structured, make: Any, says: str) -> None:
    begin = time.monotonic()
    with pytest.raises(InvalidRequestError, match=says) as caught:
        vocabulary.constraint(make(), budget=1000)
    assert caught.value.param == "response_format"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    "grammar",
    [
        json_grammar(chained(500)),
        json_grammar({"properties": {f"p{i}": {"enum": [f"v{j}" for j in range(8)]} for i in range(2000)}}),
        json_grammar({"enum": [f"value number {i}" for i in range(20_000)]}),
        json_grammar({"type": "array", "minItems": 10**12}),
        json_grammar({"type": "string", "minLength": 10**8}),
        regex_grammar("(a*)*b"),
        regex_grammar("(.*a){1000}"),
        regex_grammar("(a|a)*" * 20 + "c"),
        regex_grammar("((a|b){1,5000}c){1,5000}"),
        lark_grammar('start: a{1000000}\na: "x" | "y"'),
    ],
    ids=lambda grammar: grammar.text[:30],
)
def test_large_forms_work_within_seconds(vocabulary: Structured, grammar: Grammar) -> None:
    begin = time.monotonic()
    drawn(vocabulary, vocabulary.constraint(grammar, budget=40), 40, seed=1)
    assert time.monotonic() - begin < 30


def test_a_form_that_grows_too_large_ends_with_a_sentence(vocabulary: Structured, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="response_format: the regex cannot be used: lexer error"):
        constraint = vocabulary.constraint(regex_grammar("a{1000000}"), budget=100)
        for i in tokenizer.encode("a" * 64):
            assert i in allowed(constraint)
            constraint.accept(i)


def test_lenient_schemas_pass_over_what_cannot_be_enforced(vocabulary: Structured) -> None:
    grammar = json_grammar({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, lenient=True)
    text, _ = drawn(vocabulary, vocabulary.constraint(grammar, budget=40), 40, seed=1)
    assert isinstance(json.loads(text), list)


def test_without_llguidance(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r'pip install "cactus-py\[structured\]"'):
        Structured(tokenizer)


def test_importing_the_package_does_not_import_llguidance() -> None:
    code = "import sys, cactus_py, cactus_py.backends.native; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- requests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(smollm2_path: Path) -> Iterator[Client]:
    with Client(smollm2_path, threads=2, context=1024) as client:
        yield client


def form(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


def test_answers_of_a_real_model_are_valid(client: Client) -> None:
    """Temperature 1, every eleventh schema of the suite. `scripts/check_structured.py` asks all of them."""
    for parameter in CASES[::12]:
        draft, case = parameter.values
        if case["description"] in REFUSED:
            continue
        reply = client.chat(f"JSON, please: {case['description']}", response_format=form(case["schema"]), max_tokens=32, seed=5)
        assert reply.choices[0].finish_reason == "stop", reply.text
        VALIDATORS[draft](case["schema"]).validate(json.loads(reply.text))


def test_several_answers_streams_and_scores(client: Client) -> None:
    options: dict[str, Any] = {"response_format": form(PERSON, strict=True), "max_tokens": 60, "seed": 3}
    reply = client.chat("Describe Bob.", n=3, logprobs=True, top_logprobs=2, **options)
    texts = [choice.message.content or "" for choice in reply.choices]
    assert len(set(texts)) == 3
    for choice, text in zip(reply.choices, texts, strict=True):
        VALIDATORS["draft7"](PERSON).validate(json.loads(text))
        assert choice.logprobs is not None and choice.logprobs.content
        assert "".join(entry.token for entry in choice.logprobs.content) == text
        # The scores are the model's own: its favourite first token is not the one that the mask let it say.
        assert choice.logprobs.content[0].top_logprobs[0].token != choice.logprobs.content[0].token
    streamed = "".join(chunk.text for chunk in client.chat("Describe Bob.", stream=True, **options))
    assert streamed == texts[0]


def test_a_stream_can_be_left(client: Client) -> None:
    with client.chat("Describe Bob.", stream=True, response_format={"type": "json_object"}, seed=2) as stream:
        assert next(stream) is not None and next(stream) is not None
    assert (
        json.loads(client.chat("Describe Bob.", response_format={"type": "json_object"}, max_tokens=40, seed=2).text)
        is not None
    )


def test_a_limit_that_is_too_small_is_a_length(client: Client) -> None:
    reply = client.chat("Describe Bob.", response_format=form(PERSON), max_tokens=3)
    assert reply.choices[0].finish_reason == "length"


def test_plain_completions_and_names_of_other_servers(client: Client) -> None:
    complete = client.completions.create
    integers = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
    for options in ({"response_format": form(integers)}, {"guided_json": integers}, {"guided_json": json.dumps(integers)}):
        reply = complete(prompt=["Primes:", "Squares:"], max_tokens=24, seed=1, **options)  # type: ignore[call-overload]
        for choice in reply.choices:
            VALIDATORS["draft7"](integers).validate(json.loads(choice.text))
    assert complete(prompt="Say", max_tokens=9, guided_choice=["left", "right"]).text in ("left", "right")
    assert re.fullmatch("[ab]{3}", complete(prompt="Say", max_tokens=9, guided_regex="[ab]{3}").text)
    assert complete(prompt="Say", max_tokens=9, guided_grammar='start: "x" "y"').text == "xy"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "regex": "a"}}, "response_format.regex"),
        ({"response_format": {"type": "regex", "regex": "(a"}}, "response_format"),
        ({"response_format": form({"uniqueItems": True})}, "response_format"),
        ({"response_format": form(False)}, "response_format"),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ],
)
def test_bad_requests_name_the_field(client: Client, options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.chat("x", **options)
    assert caught.value.param == param


SAYS = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"


@pytest.mark.parametrize("kind", [CONTROL, USER_DEFINED])
@pytest.mark.parametrize("opened", [False, True])
def test_reasoning_comes_before_the_form(tmp_path: Path, kind: int, opened: bool) -> None:
    """The model thinks as it likes; what it answers is of the form."""
    says = SAYS.replace("<|im_start|>", "<|im_start|><think>") if opened else SAYS
    script = ["<|im_start|>", "<think>", "Ġit", "Ġis", "</think>", "Ċ", "nswer", "<|im_end|>"]
    path = scripted_llama(tmp_path / "m.gguf", script, special={"<think>": kind, "</think>": kind}, template=says)
    with Client(path, threads=1) as client:
        reply = client.chat("x", temperature=0, response_format={"type": "regex", "regex": "n[a-z]+"}, max_tokens=20)
        message = reply.choices[0].message
        assert (message.reasoning_content, message.content) == ("it is", "nswer")
        reply = client.chat("x", temperature=0, response_format={"type": "regex", "regex": "[0-9]"}, max_tokens=20)
        message = reply.choices[0].message
        assert message.reasoning_content == "it is" and re.fullmatch("[0-9]", message.content or "")
