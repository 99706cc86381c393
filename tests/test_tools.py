"""Tool calls: what requests offer, forms of families, the parser on texts as models write them, grammars, the wire."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai.types.chat as openai_chat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openai.lib.streaming.chat import ChatCompletionStreamState
from tiny_models import CONTROL, scripted_llama

from cactus_py import Client
from cactus_py.engine import Model
from cactus_py.errors import InvalidRequestError
from cactus_py.prompting.calls import CallParser, CallSeparator, ToolCallDelta
from cactus_py.prompting.reasoning import FORMATS as REASONING
from cactus_py.prompting.reasoning import Markers, separator
from cactus_py.prompting.structured import Structured, json_rule, lark_grammar
from cactus_py.prompting.tools import FORMATS, Format, Offer, detect, grammar, offer, spell
from cactus_py.types import ChatCompletionRequest, parse_request

FORMS = {form.name: form for form in FORMATS}
TEMPLATES = Path(__file__).parent / "data" / "chat_templates"
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "ok": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object"},
    },
    "required": ["city"],
}
TOOLS = {
    "get_weather": WEATHER,
    "math.add": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
}


def tool(name: str, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or TOOLS[name], **fields}}


def joined(found: list[str | ToolCallDelta]) -> tuple[str, list[tuple[str, str]]]:
    """The content, and the name and arguments of each call; checks the shape of the deltas."""
    calls: list[tuple[str, str]] = []
    for item in found:
        if isinstance(item, str):
            assert item
        elif item.id is not None:
            assert item.id.startswith("call_") and item.name and item.arguments == "" and item.index == len(calls)
            calls.append((item.name, ""))
        else:
            assert item.name is None and item.arguments and item.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + item.arguments)
    return "".join(item for item in found if isinstance(item, str)), calls


def parsed(name: str, pieces: list[str], *, complete: bool = True, **options: Any) -> tuple[str, list[tuple[str, str]]]:
    parser = CallParser(FORMS[name], TOOLS, **options)
    found = [item for piece in pieces for item in parser.feed(piece)]
    return joined(found + parser.finish(complete=complete))


PARIS, ADD = {"city": "Paris", "days": 3}, {"a": 1, "b": 2.5}
WRITTEN: dict[str, tuple[str, str, str, list[tuple[str, Any]]]] = {
    "hermes": (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "hermes, text before, two calls": (
        "hermes",
        'Let me see.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n'
        '<tool_call>\n{"name": "math.add", "arguments": {"a": 1, "b": 2.5}}\n</tool_call>',
        "Let me see.",
        [("get_weather", PARIS), ("math.add", ADD)],
    ),
    "hermes, never closed": (
        "hermes",
        '<tool_call>{"arguments": {"city": "Paris", "days": 3}, "name": "get_weather"}',
        "",
        [("get_weather", PARIS)],
    ),
    "hermes, in a fence": (
        "hermes",
        '```json\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n```',
        "",
        [("get_weather", PARIS)],
    ),
    "hermes, bare, arguments as text": (
        "hermes",
        '{"type": "function", "function": {"name": "math.add", "arguments": "{\\"a\\": 1, \\"b\\": 2.5}"}}',
        "",
        [("math.add", ADD)],
    ),
    "llama 3": ("llama-3", '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}', "", [("get_weather", PARIS)]),
    "llama 3, python tag, two": (
        "llama-3",
        '<|python_tag|>{"name": "get_weather", "parameters": {"city":'
        ' "Paris", "days": 3}}; {"name": "math.add", "parameters": {"a": 1, "b": 2.5}}',
        "",
        [("get_weather", PARIS), ("math.add", ADD)],
    ),
    "mistral, list": (
        "mistral-list",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "'
        'Paris", "days": 3}, "id": "abcdefgh1"}, {"name": "math.add", "arguments": {"a": 1, "b": 2.5}}]',
        "",
        [("get_weather", PARIS), ("math.add", ADD)],
    ),
    "mistral": (
        "mistral",
        '[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Par'
        'is", "days": 3}[TOOL_CALLS]math.add[ARGS]{"a": 1, "b": 2.5}',
        "",
        [("get_weather", PARIS), ("math.add", ADD)],
    ),
    "mistral writes the old list": (
        "mistral",
        '[TOOL_CALLS][{"name": "math.add", "arguments": {"a": 1, "b": 2.5}}]',
        "",
        [("math.add", ADD)],
    ),
    "lfm2": (
        "lfm2",
        '<|tool_call_start|>[get_weather(city="Paris", days=3, ok=Tru'
        "e), math.add(a=1, b=2.5)]<|tool_call_end|>Checking the weather.",
        "Checking the weather.",
        [("get_weather", {**PARIS, "ok": True}), ("math.add", ADD)],
    ),
    "lfm2, by position, quotes of both kinds": (
        "lfm2",
        "<|tool_call_start|>[get_weather('Pa\"r\\'is', '3', tags=['a', \"b\"], more={'x': None, \"y\": [1]})]<|tool_call_end|>",
        "",
        [("get_weather", {"city": "Pa\"r'is", "days": 3, "tags": ["a", "b"], "more": {"x": None, "y": [1]}})],
    ),
    "lfm2, quotes not escaped": (
        "lfm2",
        "<|tool_call_start|>[get_weather(city='L'Aquila')]<|tool_call_end|>",
        "",
        [("get_weather", {"city": "L'Aquila"})],
    ),
    "qwen3-coder": (
        "qwen3-coder",
        "I look.\n<tool_call>\n<function=get_weather>\n<parameter=cit"
        "y>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "<parameter=tags>\n['1', 'b']\n</parameter>\n</function>\n</tool_call>",
        "I look.",
        [("get_weather", {**PARIS, "tags": ["1", "b"]})],
    ),
    "qwen3-coder, text that is a number": (
        "qwen3-coder",
        "<function=get_weather>\n<parameter=city>\n75001\n</parameter>\n<parameter=ok>\nTrue\n</parameter>\n</function>",
        "",
        [("get_weather", {"city": "75001", "ok": True})],
    ),
    "glm": (
        "glm",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>"
        "Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
        "",
        [("get_weather", PARIS)],
    ),
    "harmony": (
        "harmony",
        '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris", "days": 3}<|call|>',
        "",
        [("get_weather", PARIS)],
    ),
    "harmony, recipient first": (
        "harmony",
        ' to=functions.math.add<|channel|>commentary json<|message|>{"a": 1, "b": 2.5}<|call|>',
        "",
        [("math.add", ADD)],
    ),
    "command-r7b": (
        "command-r7b",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "g'
        'et_weather", "parameters": {"city": "Paris", "days": 3}}\n]<|END_ACTION|>',
        "",
        [("get_weather", PARIS)],
    ),
    "granite 3": (
        "granite-3",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}]',
        "",
        [("get_weather", PARIS)],
    ),
    "phi-4-mini": (
        "phi-4-mini",
        '<|tool_call|>[{"name": "math.add", "arguments": {"a": 1, "b": 2.5}}]<|/tool_call|>',
        "",
        [("math.add", ADD)],
    ),
    "deepseek r1": (
        "deepseek-r1",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>g"
        'et_weather\n```json\n{"city": "Paris", "days": 3}\n```<｜tool▁call▁end｜>'
        "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>math.add\n```json\n{"
        '"a": 1, "b": 2.5}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "",
        [("get_weather", PARIS), ("math.add", ADD)],
    ),
    "deepseek v3.1": (
        "deepseek-v3.1",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>math.add<｜tool▁sep｜>{"
        '"a": 1, "b": 2.5}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "",
        [("math.add", ADD)],
    ),
    "functionary": (
        "functionary",
        '<function=get_weather>{"city": "Paris", "days": 3}</function>',
        "",
        [("get_weather", PARIS)],
    ),
    "gemma 4": (
        "gemma-4",
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>',
        "",
        [("get_weather", PARIS)],
    ),
    "kimi": (
        "kimi",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get"
        '_weather:0<|tool_call_argument_begin|>{"city": "Paris", "days": 3}<|tool_call_end|><|tool_calls_section_end|>',
        "",
        [("get_weather", PARIS)],
    ),
    "minimax": (
        "minimax-m2",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter'
        ' name="city">Paris</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_models_write_wherever_it_is_cut(case: str) -> None:
    name, text, content, calls = WRITTEN[case]
    whole = parsed(name, [text])
    assert (whole[0], [(called, json.loads(arguments)) for called, arguments in whole[1]]) == (content, calls)
    assert parsed(name, list(text)) == whole
    for cut in range(1, len(text)):
        assert parsed(name, [text[:cut], text[cut:]]) == whole


NO_CALLS = {
    "no such function": ("hermes", '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>'),
    "JSON that answers": ("hermes", '{"name": "Bob", "arguments": {"city": 1}}'),
    "a list that answers": ("llama-3", ' [1, 2, {"name": 3}]'),
    "code": ("hermes", "```python\nprint(1)\n```\n"),
    "talk of markers": ("hermes", "Write <tool_call> and then </tool_call>. \n"),
    "a broken object": ("hermes", '<tool_call>{"name": "get_weather", arguments'),
    "not closed": ("mistral", "[TOOL_CALLS]get_weather"),
    "no header": ("mistral", "[TOOL_CALLS] is what {it} writes"),
    "less than": ("qwen3-coder", "if a < b: <function=f> <"),
    "a class": ("lfm2", "<|tool_call_start|>[f(x)]<|tool_call_end|>"),
    "code in the block": ("lfm2", "<|tool_call_start|>[get_weather(city=open('x'))]<|tool_call_end|>"),
    "deep": ("gemma-4", "<|tool_call>call:get_weather{more:" + "[" * 5000),
}


@pytest.mark.parametrize("case", NO_CALLS)
def test_what_is_no_call_stays_text(case: str) -> None:
    name, text = NO_CALLS[case]
    assert parsed(name, [text]) == (text, [])
    assert parsed(name, list(text)) == (text, [])


def test_a_call_that_is_cut_off() -> None:
    assert parsed("hermes", ['<tool_call>{"name": "get_weather", "arguments": {"city": "Pa'], complete=False) == (
        "",
        [("get_weather", '{"city": "Pa')],
    )
    tags = "<function=get_weather><parameter=city>Paris</parameter><parameter=days>"
    assert parsed("qwen3-coder", [tags], complete=False) == ("", [("get_weather", '{"city": "Paris"')])
    assert parsed("qwen3-coder", [tags]) == ("", [("get_weather", '{"city": "Paris"}')])


def test_arguments_come_while_they_are_written() -> None:
    parser = CallParser(FORMS["hermes"], TOOLS)
    assert parser.feed('Sure. <tool_call>{"name": "get_weather", "argum') == ["Sure."]
    (begun, *rest) = parser.feed('ents": {"city": "P')
    assert isinstance(begun, ToolCallDelta) and (begun.name, begun.arguments) == ("get_weather", "")
    assert joined([begun, *rest])[1] == [("get_weather", '{"city": "P')]
    assert [item.arguments for item in parser.feed('a\nr"}') if isinstance(item, ToolCallDelta)] == ['a\\nr"}']


def test_only_one_call_where_only_one_is_wanted() -> None:
    text = WRITTEN["hermes, text before, two calls"][1]
    assert len(parsed("hermes", list(text), single=True)[1]) == 1


def _random_json(schema: Any) -> Any:
    texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    anything = st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | texts,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, max_size=3)
        ),
        max_leaves=6,
    )
    objects = st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), anything, max_size=3)
    return {"string": texts, "integer": st.integers(-(10**9), 10**9), "boolean": st.booleans(), "object": objects}.get(
        schema["type"], st.lists(texts, max_size=3)
    )


ARGUMENTS = st.fixed_dictionaries(
    {"city": _random_json({"type": "string"})},
    optional={key: _random_json(schema) for key, schema in WEATHER["properties"].items() if key != "city"},
)


def _confusing(form: Format, value: Any) -> bool:
    """Whether a text of the arguments holds what the form writes without escaping it."""
    if form.body in ("objects", "named", "python"):
        return False
    return any(char in json.dumps(value, ensure_ascii=False) for char in "<>|") or any(
        isinstance(item, str) and item != item.strip("\n") for item in value.values()
    )


@pytest.mark.parametrize("name", [name for name in FORMS])
@settings(max_examples=12, deadline=None)
@given(arguments=st.lists(ARGUMENTS, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_what_is_spelled_is_parsed(name: str, arguments: list[dict[str, Any]], seed: int) -> None:
    form = FORMS[name]
    arguments = [item for item in arguments if not _confusing(form, item)] or [{"city": "x"}]
    text = spell(form, [{"name": "get_weather", "arguments": item} for item in arguments])
    cuts = sorted(random.Random(seed).choices(range(len(text) + 1), k=5))
    pieces = [text[i:j] for i, j in itertools.pairwise([0, *cuts, len(text)])]
    content, calls = parsed(name, pieces)
    assert content == ""
    assert [(called, json.loads(written)) for called, written in calls] == [("get_weather", item) for item in arguments]


@pytest.mark.parametrize(
    "name", ["hermes", "mistral", "lfm2", "qwen3-coder", "glm", "harmony", "llama-3", "deepseek-r1", "gemma-4"]
)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_cuts_make_no_difference_and_nothing_is_lost(name: str, data: st.DataObject) -> None:
    form = FORMS[name]
    parts = [
        *form.starts,
        *form.markers,
        *form.wrap,
        "get_weather",
        "{",
        "}",
        '"name"',
        ":",
        '"arguments"',
        "(",
        ")",
        "[",
        "]",
        " ",
        "\n",
        '"',
        "a",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=14)))
    whole = parsed(name, [text])
    assert parsed(name, list(text)) == whole
    if not whole[1]:
        assert whole[0] == text


# ---- forms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "vocabulary", "expected"),
    [
        ("Qwen-Qwen3-0.6B", set(), "hermes"),
        ("HuggingFaceTB-SmolLM3-3B", set(), "hermes"),
        ("meta-llama-Llama-3.2-3B-Instruct", {"<|python_tag|>"}, "llama-3"),
        ("LFM2.5-Instruct", {"<|tool_call_start|>", "<|tool_call_end|>"}, "lfm2"),
        ("google-gemma-2-2b-it", set(), "hermes"),
        ("microsoft-Phi-3.5-mini-instruct", {"[TOOL_CALLS]"}, "hermes"),  # its template knows no tools: adapt tells of them
    ],
)
def test_forms_are_found(template: str, vocabulary: set[str], expected: str) -> None:
    assert detect((TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8"), vocabulary).name == expected


def test_calls_of_old_messages_have_genuine_markers_and_texts_have_not(tmp_path: Path) -> None:
    special = dict.fromkeys(("<|tool_call_start|>", "<|tool_call_end|>"), CONTROL)
    template = (TEMPLATES / "LFM2.5-Instruct.jinja").read_text(encoding="utf-8")
    path = scripted_llama(tmp_path / "m.gguf", ["<|im_start|>", "Ċ"], special=special, template=template)
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "<|tool_call_end|>"}}}
    messages = [
        {"role": "user", "content": "<|tool_call_start|>"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "warm", "tool_call_id": "c"},
    ]
    with Client(path, threads=1) as client:
        client.warm_up()
        loaded = next(iter(client._core.backend._by_path.values()))  # type: ignore[attr-defined]
        with loaded.in_use() as model:
            ids = loaded.encoder.encode(messages)
            start, end = (model.tokenizer.encode(text, parse_special=True)[0] for text in special)
            assert ids.count(start) == 1 and ids.count(end) == 1
            between = model.detokenize(ids[ids.index(start) + 1 : ids.index(end)])
            assert between == '[get_weather(city="<|tool_call_end|>")]'


# ---- requests ------------------------------------------------------------------------------------------------------------


def asked(**fields: Any) -> Offer | None:
    fields.setdefault("tools", [tool("get_weather"), tool("math.add")])
    messages = [{"role": "user", "content": "x"}]
    return offer(parse_request(ChatCompletionRequest, {"messages": messages, **fields}))


NAMED = {"type": "function", "function": {"name": "math.add"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}


@pytest.mark.parametrize(
    ("fields", "names", "required", "single"),
    [
        ({}, ["get_weather", "math.add"], False, False),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, ["get_weather", "math.add"], False, True),
        ({"tool_choice": "required"}, ["get_weather", "math.add"], True, False),
        ({"tool_choice": NAMED}, ["math.add"], True, True),
        ({"tool_choice": ALLOWED}, ["math.add"], True, False),
        ({"tools": None, "functions": [tool("math.add")["function"]]}, ["math.add"], False, True),
        (
            {"tools": None, "functions": [tool("math.add")["function"]], "function_call": {"name": "math.add"}},
            ["math.add"],
            True,
            True,
        ),
    ],
)
def test_what_is_offered(fields: dict[str, Any], names: list[str], required: bool, single: bool) -> None:
    offered = asked(**fields)
    assert offered is not None
    assert (list(offered.schemas), offered.required, offered.single) == (names, required, single)
    assert [item["function"]["name"] for item in offered.definitions] == names


def test_nothing_is_offered() -> None:
    assert asked(tool_choice="none") is None
    assert asked(tools=[]) is None
    assert asked(tools=None, functions=[tool("math.add")["function"]], function_call="none") is None


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "only possible with tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", 'names the function "g"'),
        ({"tool_choice": {"type": "custom"}}, "tool_choice", 'type is "custom"'),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "should name a function"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice",
            "list of tools",
        ),
        ({"tools": [tool("math.add")] * 2}, "tools", 'two functions of the name "math.add"'),
        ({"tools": [tool("f", {"type": "array"})]}, "tools", 'schema of type "array"'),
        ({"functions": [tool("math.add")["function"]]}, "functions", "older name"),
    ],
)
def test_offers_that_make_no_sense(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        asked(**fields)
    assert caught.value.param == param


# ---- grammars ------------------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "exact": {"type": "boolean"},
        "near": {"$ref": "#/$defs/point"},
        "code": {"type": "string", "pattern": "^[a-z]{3}$"},
    },
    "required": ["place", "days", "code"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}},
}
EITHER = {
    "anyOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}]
}


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Iterator[dict[str, tuple[Structured, Any]]]:
    """One that has all markers as control tokens, one that has none."""
    markers = dict.fromkeys(marker for form in FORMATS for marker in form.markers)
    path = tmp_path_factory.mktemp("m") / "marked.gguf"
    scripted_llama(path, ["<|im_start|>", "Ċ"], special=dict.fromkeys(markers, CONTROL))
    with Model.load(path, threads=1) as marked, Model.load(zoo / "llama" / "llama.f32.gguf", threads=1) as bare:
        yield {kind: (Structured(model.tokenizer), model.tokenizer) for kind, model in (("marked", marked), ("bare", bare))}


BUDGETS = {"marked": 100, "bare": 200}  # tokens; a vocabulary without the markers writes them almost letter by letter


def walked(vocabulary: tuple[Structured, Any], text: str, seed: int, budget: int) -> str:
    """Text of an answer whose tokens are drawn from the masks, each as likely as any other."""
    structured, tokenizer = vocabulary
    rng = random.Random(seed)
    constraint = structured.constraint(lark_grammar(text, param="tools"), budget=budget)
    raw = b""
    for _ in range(budget):
        bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        token = rng.choice(np.nonzero(bits)[0].tolist())
        if token in structured.ends:
            break
        raw += tokenizer.token_bytes(token)
        constraint.accept(token)
    assert constraint.satisfied, raw
    return raw.decode("utf-8", "replace")


@pytest.mark.parametrize("kind", ["marked", "bare"])
@pytest.mark.parametrize("name", list(FORMS))
def test_required_calls_satisfy_their_schemas(name: str, kind: str, vocabularies: dict[str, tuple[Structured, Any]]) -> None:
    """Whatever tokens a model prefers: the worst of them draws them by lot."""
    form, structured = FORMS[name], vocabularies[kind][0]
    schemas: dict[str, Any] = {
        "look-up.it": PLAIN,
        "either": EITHER,
        "now": {"type": "object", "properties": {}, "additionalProperties": False},
    }
    for single in (True, False):
        offered = Offer(schemas, (), required=True, single=single)
        text = grammar(form, offered, literal=structured.literal, json_rule=json_rule)
        for seed in range(3):
            written = walked(vocabularies[kind], text, seed, budget=BUDGETS[kind])
            parser = CallParser(form, schemas)
            content, calls = joined(parser.feed(written) + parser.finish())
            assert calls and content == "" and (len(calls) == 1 or not single), written
            for called, arguments in calls:
                Draft202012Validator(schemas[called]).validate(json.loads(arguments))


@pytest.mark.parametrize("kind", ["marked", "bare"])
@pytest.mark.parametrize("name", ["hermes", "mistral", "lfm2", "qwen3-coder", "deepseek-v3.1"])
def test_strict_tools_are_held_to_their_schema_when_the_model_calls(
    name: str, kind: str, vocabularies: dict[str, tuple[Structured, Any]]
) -> None:
    """Text is free up to what a call starts with; from there on the schema leads."""
    form, (structured, tokenizer) = FORMS[name], vocabularies[kind]
    offered = Offer({"f": PLAIN}, (), strict=frozenset("f"))
    assert offered.needs_grammar(form)
    text = grammar(form, offered, literal=structured.literal, json_rule=json_rule)
    code = '"abc"' if form.body == "tags" else "abc"  # between tags a text of a pattern has quotes
    call = spell(form, [{"name": "f", "arguments": {"place": "x", "unit": "C", "days": 3, "code": code}}])
    wrong = spell(form, [{"name": "f", "arguments": {"place": "x", "days": "no", "code": code}}])
    for said, is_right in ((f"Well, {call}", True), (f"Well, {wrong}", False), ("Only {text}: no call [1].", True)):
        constraint = structured.constraint(lark_grammar(text, param="tools"), budget=300)
        taken = True
        for token in tokenizer.encode(said, add_special=False, parse_special=True):
            mask = constraint.mask()
            taken = bool(int(mask[token // 32]) >> (token % 32) & 1)
            if not taken:
                break
            constraint.accept(token)
        assert (taken and constraint.satisfied) == is_right, said


# ---- the whole way -------------------------------------------------------------------------------------------------------

SAYS = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools | tojson if tools else '' }}<|im_start|>"
SCRIPT = ["<|im_start|>", "<|tool_call_start|>", "[", "f", "(", ")", "]", "<|tool_call_end|>", "<|im_end|>"]
F = tool("f", {"type": "object", "properties": {}})


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Client]:
    """A model that says nothing but one call of f."""
    special = dict.fromkeys(("<|tool_call_start|>", "<|tool_call_end|>"), CONTROL)
    path = scripted_llama(tmp_path / "caller.gguf", SCRIPT, special=special, template=SAYS)
    with Client(path, threads=1) as client:
        yield client


def test_a_call_in_a_reply(caller: Client) -> None:
    reply = caller.chat("x", tools=[F], temperature=0, logprobs=True)
    choice = reply.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "f", "{}")
    assert choice.logprobs is not None and len(choice.logprobs.content or ()) == len(SCRIPT) - 2
    openai_chat.ChatCompletion.model_validate(reply.model_dump())
    again = caller.chat(
        [{"role": "user", "content": "x"}, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "1"}],
        tools=[F],
        temperature=0,
    )
    assert again.choices[0].message.tool_calls is not None


def test_a_call_in_a_stream_as_the_openai_client_reads_it(caller: Client) -> None:
    state: Any = ChatCompletionStreamState(input_tools=[F])  # type: ignore[list-item]
    for chunk in caller.chat("x", tools=[F], temperature=0, stream=True):
        state.handle_chunk(openai_chat.ChatCompletionChunk.model_validate(json.loads(chunk.model_dump_json())))
    choice = state.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.id[:5], call.type, call.function.name, call.function.arguments) == ("call_", "function", "f", "{}")


def test_the_older_name_of_tools(caller: Client) -> None:
    fields: dict[str, Any] = {"functions": [F["function"]], "temperature": 0}
    reply = caller.chat("x", **fields)
    choice = reply.choices[0]
    assert choice.finish_reason == "function_call" and choice.message.tool_calls is None
    assert choice.message.function_call is not None and choice.message.function_call.name == "f"
    chunks = list(caller.chat("x", stream=True, **fields))
    assert chunks[-1].choices[0].finish_reason == "function_call"
    assert any(chunk.choices[0].delta.function_call for chunk in chunks)


def test_without_tools_on_offer_a_call_is_text(caller: Client) -> None:
    for fields in ({}, {"tools": [F], "tool_choice": "none"}, {"tools": [tool("g", F["function"]["parameters"])]}):
        choice = caller.chat("x", temperature=0, **fields).choices[0]
        assert choice.finish_reason == "stop" and choice.message.tool_calls is None
        assert "[f()]" in (choice.message.content or "")


SHORT: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "additionalProperties": False}},
}


def test_required_calls_of_a_model_that_wants_none(tmp_path: Path) -> None:
    """It would say nothing but line breaks: the grammar alone makes the calls."""
    path = scripted_llama(
        tmp_path / "m.gguf",
        ["<|im_start|>", "Ċ"],
        special={},
        template="{% for m in messages %}{{ m.content }}{% endfor %}{{ tools[0].function.name }}<|im_start|>",
    )
    with Client(path, threads=1) as client:
        choice: Any
        for choice in (NAMED, "required"):
            fields: dict[str, Any] = {"tools": [tool("math.add"), tool("look", PLAIN)], "tool_choice": choice}
            fields |= {"temperature": 2, "seed": 5}
            for answer in client.chat("x", n=3, max_tokens=90, **fields).choices:
                assert answer.finish_reason == "tool_calls" and answer.message.content is None
                assert answer.message.tool_calls
                for call in answer.message.tool_calls:
                    schema = PLAIN if call.function.name == "look" else TOOLS["math.add"]
                    Draft202012Validator(schema).validate(json.loads(call.function.arguments))
                    assert choice == "required" or call.function.name == "math.add"
            assert client.chat("x", max_tokens=10, **fields).choices[0].finish_reason == "length"


def test_calls_or_an_answer_of_a_given_form(zoo: Path) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
    with Client(zoo / "llama" / "llama.f32.gguf", threads=1) as client:
        reply = client.chat("x", tools=[SHORT], response_format=form, temperature=2, seed=1, n=4, max_tokens=40)
        for answer in reply.choices:
            if answer.message.tool_calls is None:
                assert isinstance(json.loads(answer.message.content or ""), int)
            else:
                assert answer.message.tool_calls[0].function.name == "f"


def test_reasoning_then_a_call() -> None:
    """gpt-oss: the control tokens of its messages are the reasoning's and the calls'."""
    (harmony,) = (form for form in REASONING if form.name == "harmony")
    inner = separator(harmony, "<|start|>assistant")
    markers = Markers(CallSeparator(inner, CallParser(FORMS["harmony"], TOOLS), harmony.markers), ())
    events = [
        "<|channel|>",
        "analysis",
        "<|message|>",
        "Rain?",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "commentary",
    ]
    events += [" to=functions.", "get_weather ", "<|constrain|>", "json", "<|message|>", '{"city": "Pa', 'ris"}', "<|call|>"]
    pieces = []
    for event in events:
        marker = event if event.startswith("<|") else None
        pieces += markers.push("" if marker else event, marker, event)
    pieces += markers.finish()
    assert "".join(piece.text for piece in pieces if piece.reasoning) == "Rain?"
    assert "".join(piece.text for piece in pieces if not piece.reasoning) == ""
    assert joined([piece.call for piece in pieces if piece.call])[1] == [("get_weather", '{"city": "Paris"}')]


# ---- real weights --------------------------------------------------------------------------------------------------------


def test_forty_tools_with_a_model_that_knows_none(smollm2_path: Path, data: Path) -> None:
    """SmolLM2 was not taught to call. What it calls is right as to its form, always; whether it is sensible is not asked."""
    spec = importlib.util.spec_from_file_location("check_tools", Path(__file__).parent.parent / "scripts" / "check_tools.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lines = (data / "tools" / "bfcl_simple.jsonl").read_text(encoding="utf-8").splitlines()
    with Client(smollm2_path) as client:
        for number, line in enumerate(lines):
            question = json.loads(line)
            tools = [script.tool_of(function) for function in question["function"]]
            name = tools[0]["function"]["name"]
            choice: Any = {"type": "function", "function": {"name": name}} if number % 2 else "required"
            reply = client.chat(
                question["question"][0],
                tools=tools,
                tool_choice=choice,
                parallel_tool_calls=False,
                temperature=0,
                max_tokens=100,
            )
            assert reply.choices[0].finish_reason == "tool_calls"
            (call,) = reply.choices[0].message.tool_calls or ()
            assert call.function.name == name
            schema = script.as_schema(question["function"][0]["parameters"])
            Draft202012Validator(schema).validate(json.loads(call.function.arguments))
