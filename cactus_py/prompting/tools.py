"""Tool calls: which tools a request offers, and how a family of models writes the calls.

The form in which a model writes calls is read from its template and its special tokens (`detect`), not from its name. A form is
one row of `FORMATS`; rows share a few kinds of body:

- `objects`: JSON objects with the name and the arguments, alone or in a list (Hermes and Qwen, Llama 3, Granite 3, Command R);
- `named`: the name, then the arguments as JSON (Mistral, DeepSeek, Kimi, gpt-oss, Functionary);
- `tags`: a tag for the function and one for each parameter (Qwen3-Coder, MiniMax, Seed); `keys`: a pair of tags for each (GLM);
- `python`: calls as Python writes them (LFM2); `braces`: `call:name{key:value}` (Gemma 4).

`spell` writes calls of old messages in a form; `grammar` makes what a model must write to call one of the tools, with arguments
that satisfy its schema; `prompting.calls` takes apart what a model wrote. Models whose template knows no tools are told of them
by `prompting.adapt`, and answer in Hermes' form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidRequestError

if TYPE_CHECKING:
    from ..types import ChatCompletionRequest

__all__ = ["FORMATS", "Format", "Offer", "detect", "grammar", "offer", "spell"]

Schema = Mapping[str, Any]

_MOST_CALLS = 16  # that a grammar lets a model write in one answer, and a server of a small model wants to wait for
_MARKER = re.compile(r"<\|\"\|>|<[^<>\s]+>|\[/?[A-Z_]+\]")


# ---- what a request offers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """The functions that an answer may call. `schemas`: of their arguments, by name."""

    schemas: Mapping[str, Schema]
    definitions: tuple[dict[str, Any], ...]  # as templates take them
    required: bool = False  # the answer is a call
    single: bool = False  # only one call
    strict: frozenset[str] = frozenset()  # whose arguments must satisfy their schema even where a call is the model's choice

    def needs_grammar(self, form: Format) -> bool:
        """Whether the answer is not left to the model. A call without a start cannot be told from text in time."""
        return self.required or (bool(self.strict) and bool(form.start))


def offer(request: ChatCompletionRequest) -> Offer | None:
    """What the request offers; None if nothing may be called. Raises InvalidRequestError where its fields disagree."""
    legacy = bool(request.functions)
    if legacy and request.tools:
        raise InvalidRequestError("functions is the older name of tools; give one of them", "functions")
    functions = list(request.functions or ()) if legacy else [tool.function for tool in request.tools or ()]
    param = "functions" if legacy else "tools"
    choice_param = "function_call" if legacy or request.tool_choice is None else "tool_choice"
    choice: Any = request.function_call if choice_param == "function_call" else request.tool_choice
    if not functions:
        if choice not in (None, "none", "auto"):
            raise InvalidRequestError(f"{choice_param} is only possible with {param}", choice_param)
        return None
    by_name = {function.name: function for function in functions}
    if len(by_name) < len(functions):
        names = [function.name for function in functions]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(f'{param} has two functions of the name "{twice}"', param)
    mode, names = _chosen(choice, choice_param, list(by_name))
    if mode == "none":
        return None
    definitions = []
    schemas: dict[str, Schema] = {}
    for name in names:
        function = by_name[name]
        schema = function.parameters or {"type": "object", "properties": {}}
        if schema.get("type", "object") != "object":
            message = f'the parameters of "{name}" are a schema of type {json.dumps(schema["type"])}, not of an object'
            raise InvalidRequestError(message, param)
        schemas[name] = schema if "type" in schema else {"type": "object", **schema}
        about: dict[str, Any] = {"name": name}
        about["description"] = function.description or ""
        about["parameters"] = schemas[name]
        definitions.append({"type": "function", "function": about})
    return Offer(
        schemas=schemas,
        definitions=tuple(definitions),
        required=mode in ("required", "named"),
        single=mode == "named" or legacy or request.parallel_tool_calls is False,
        strict=frozenset(name for name in names if by_name[name].strict),
    )


def _chosen(choice: Any, param: str, names: list[str]) -> tuple[Literal["none", "auto", "required", "named"], list[str]]:
    """Whether to call, and what may be called."""
    if choice is None or choice == "auto":
        return "auto", names
    if choice == "none":
        return "none", []
    if choice == "required":
        return "required", names
    kind = choice.get("type") if param == "tool_choice" else "function"
    if kind == "allowed_tools":
        inner = choice.get("allowed_tools")
        allowed = (
            inner if isinstance(inner, Mapping) else choice
        )  # two spellings: nested in Chat Completions, flat in Responses
        mode, tools = allowed.get("mode", "auto"), allowed.get("tools")
        if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
            raise InvalidRequestError(f'{param}.allowed_tools needs a mode, "auto" or "required", and a list of tools', param)
        wanted = [_name_in(tool, param, names) for tool in tools]
        return mode, [name for name in names if name in wanted]
    if kind == "function":
        return "named", [_name_in(choice, param, names)]
    raise InvalidRequestError(f'{param}.type is {json.dumps(kind)}; known are "function" and "allowed_tools"', param)


def _name_in(choice: Any, param: str, names: Container[str]) -> str:
    inner = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str):
        raise InvalidRequestError(f"{param} should name a function", param)
    if name not in names:
        raise InvalidRequestError(f'{param} names the function "{name}", which is not among the tools', param)
    return name


# ---- forms -------------------------------------------------------------------------------------------------------------

Body = Literal["objects", "named", "tags", "keys", "python", "braces"]


@dataclass(frozen=True)
class Format:
    """How a family of models writes calls: `start`, a call (or a list of them), `end`; `wrap` may stand around all of them."""

    name: str
    body: Body
    start: str
    end: str = ""
    wrap: tuple[str, str] = ("", "")
    source: tuple[tuple[str, ...], ...] = ()  # templates of this form have all texts of one of these rows
    vocabulary: tuple[str, ...] = ()  # or the vocabulary has all of these tokens
    also: tuple[str, ...] = ()  # other texts that calls are seen to start with
    bare: bool = False  # a call may come without its start, at the beginning of an answer
    listed: bool = False  # objects: in a list, even if it is only one
    keyed: bool = False  # objects: {"name": {arguments}}
    keys: tuple[str, str] = ("name", "arguments")  # objects
    head: str = "{name}"  # named: between `start` and the arguments; {i} is the number of the call
    header: str = r"\s*([\w.-]+)\s*"  # named: how to read that
    param: tuple[str, str, str] = ("", "", "")  # tags: before the key, between key and value, after the value

    @property
    def starts(self) -> tuple[str, ...]:
        """What tells of a call, the longest first."""
        return tuple(sorted({self.start.strip(), *self.also} - {""}, key=lambda text: (-len(text), text)))

    @property
    def markers(self) -> tuple[str, ...]:
        """What of the form may be control tokens."""
        texts = (self.start, self.end, *self.wrap, *self.also, self.head, *self.param, *self._more_markers)
        return tuple(dict.fromkeys(marker for text in texts for marker in _MARKER.findall(text)))

    def spelled(self, markers: Mapping[str, str]) -> Format:
        """The same form with other texts in place of its markers."""

        def other(text: str) -> str:
            return _MARKER.sub(lambda match: markers.get(match[0], match[0]), text)

        before, between, after = map(other, self.param)
        return replace(
            self,
            start=other(self.start),
            end=other(self.end),
            wrap=(other(self.wrap[0]), other(self.wrap[1])),
            head=other(self.head),
            param=(before, between, after),
        )

    @property
    def _more_markers(self) -> tuple[str, ...]:
        if self.body == "keys":
            return "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
        return ('<|"|>',) if self.body == "braces" else ("[CALL_ID]",) if self.start == "[TOOL_CALLS]" else ()


_HERMES = Format(
    "hermes",
    "objects",
    "<tool_call>\n",
    "\n</tool_call>",
    source=(("<tool_call>",),),
    also=("<function_call>", "<tools>"),
    bare=True,
)

# The first row that fits is taken, so the more particular ones come first.
FORMATS = (
    Format(
        "harmony",
        "named",
        "<|channel|>commentary to=functions.",
        "<|call|>",
        source=(("<|channel|>", "<|message|>", "functions."),),
        vocabulary=("<|channel|>", "<|message|>", "<|start|>", "<|call|>"),
        also=("<|channel|>analysis to=functions.", " to=functions."),
        head="{name} <|constrain|>json<|message|>",
        header=r"([\w.-]+)[^{]*<\|message\|>\s*",
    ),
    Format(
        "gemma-4",
        "braces",
        "<|tool_call>call:",
        "<tool_call|>",
        source=(("<|tool_call>call:",),),
        vocabulary=("<|tool_call>", "<tool_call|>"),
    ),
    Format(
        "kimi",
        "named",
        "<|tool_call_begin|>",
        "<|tool_call_end|>",
        wrap=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        source=(("<|tool_call_argument_begin|>",),),
        vocabulary=("<|tool_call_begin|>", "<|tool_call_argument_begin|>"),
        head="functions.{name}:{i}<|tool_call_argument_begin|>",
        header=r"\s*(?:functions\.)?([\w.-]+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>\s*",
    ),
    Format(
        "deepseek-r1",
        "named",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "\n```<｜tool▁call▁end｜>",
        wrap=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        source=(("<｜tool▁call▁begin｜>", "```json"),),
        also=("<｜tool▁call▁begin｜>",),
        head="{name}\n```json\n",
        header=r"\s*(?:function<｜tool▁sep｜>)?([\w.-]+)(?:<｜tool▁sep｜>)?\s*(?:```json)?\s*",
    ),
    Format(
        "deepseek-v3.1",
        "named",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        wrap=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        source=(("<｜tool▁call▁begin｜>",),),
        vocabulary=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
        head="{name}<｜tool▁sep｜>",
        header=r"\s*(?:function<｜tool▁sep｜>)?([\w.-]+)(?:<｜tool▁sep｜>)?\s*(?:```json)?\s*",
    ),
    Format(
        "dsml",
        "tags",
        '<｜DSML｜invoke name="',
        "</｜DSML｜invoke>\n",
        wrap=("<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"),
        source=(("｜DSML｜", "tool_calls>"),),
        param=('<｜DSML｜parameter name="', '">', "</｜DSML｜parameter>\n"),
    ),
    Format(
        "dsml-function-calls",
        "tags",
        '<｜DSML｜invoke name="',
        "</｜DSML｜invoke>\n",
        wrap=("<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>"),
        source=(("｜DSML｜",),),
        param=('<｜DSML｜parameter name="', '">', "</｜DSML｜parameter>\n"),
    ),
    Format(
        "solar",
        "named",
        "<|tool_call:begin|>",
        "<|tool_call:end|>",
        wrap=("<|tool_calls|>", "<|calls|>"),
        source=(("<|tool_call:begin|>",),),
        head="call{i}<|tool_call:name|>{name}<|tool_call:args|>",
        header=r"[^<]*<\|tool_call:name\|>([\w.-]+)<\|tool_call:args\|>\s*",
    ),
    Format(
        "mistral",
        "named",
        "[TOOL_CALLS]",
        source=(("[TOOL_CALLS]", "[ARGS]"),),
        vocabulary=("[TOOL_CALLS]", "[ARGS]"),
        head="{name}[ARGS]",
        header=r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?\s*(?:\[ARGS\])?\s*",
        bare=True,
    ),
    Format(
        "mistral-list",
        "objects",
        "[TOOL_CALLS]",
        source=(("[TOOL_CALLS]",),),
        vocabulary=("[TOOL_CALLS]",),
        listed=True,
        bare=True,
    ),
    Format(
        "lfm2",
        "python",
        "<|tool_call_start|>[",
        "]<|tool_call_end|>",
        source=(("<|tool_call_start|>",),),
        vocabulary=("<|tool_call_start|>", "<|tool_call_end|>"),
        also=("<|tool_call_start|>",),
        bare=True,
    ),
    Format(
        "command-r7b",
        "objects",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        source=(("<|START_ACTION|>",),),
        vocabulary=("<|START_ACTION|>", "<|END_ACTION|>"),
        listed=True,
        keys=("tool_name", "parameters"),
    ),
    Format(
        "command-r",
        "objects",
        "Action: ```json\n",
        "\n```",
        source=(("Action:", "```json"), ("Action:", "```", "tool_name")),
        also=("Action:```json", "Action: ```json", "Action:\n```json"),
        listed=True,
        keys=("tool_name", "parameters"),
    ),
    Format("gigachat", "objects", "<|function_call|>", source=(("<|function_call|>",),), bare=True),
    Format(
        "apertus", "objects", "<|tools_prefix|>", "<|tools_suffix|>", source=(("<|tools_prefix|>",),), listed=True, keyed=True
    ),
    Format(
        "phi-4-mini",
        "objects",
        "<|tool_call|>",
        "<|/tool_call|>",
        source=(("<|/tool_call|>",),),
        vocabulary=("<|tool_call|>", "<|/tool_call|>"),
        also=("functools",),
        listed=True,
        bare=True,
    ),
    Format(
        "granite-3",
        "objects",
        "<|tool_call|>",
        source=(("<|tool_call|>",),),
        listed=True,
        also=("<tool_call>",),
        bare=True,
    ),
    Format("nemotron", "objects", "<TOOLCALL>", "</TOOLCALL>", source=(("<TOOLCALL>",),), listed=True, bare=True),
    Format("apriel", "objects", "<tool_calls>", "</tool_calls>", source=(("<tool_calls>[",),), listed=True, bare=True),
    Format(
        "minimax-m1",
        "objects",
        "<tool_calls>\n",
        "\n</tool_calls>",
        source=(("<tool_calls>\\n",), ("<tool_calls>\n",)),
        bare=True,
    ),
    Format(
        "minimax-m2",
        "tags",
        '<invoke name="',
        "</invoke>\n",
        wrap=("<minimax:tool_call>\n", "</minimax:tool_call>"),
        source=(("<minimax:tool_call>", "<invoke name="),),
        param=('<parameter name="', '">', "</parameter>\n"),
    ),
    Format(
        "seed",
        "tags",
        "<function=",
        "</function>\n",
        wrap=("<seed:tool_call>\n", "</seed:tool_call>"),
        source=(("<seed:tool_call>",),),
        param=("<parameter=", ">", "</parameter>\n"),
    ),
    Format(
        "qwen3-coder",
        "tags",
        "<function=",
        "</function>\n",
        wrap=("<tool_call>\n", "</tool_call>"),
        source=(("<function=", "<parameter="),),
        param=("<parameter=", ">\n", "\n</parameter>\n"),
    ),
    Format(
        "minicpm5",
        "tags",
        '<function name="',
        "</function>",
        source=(("<function name=", "<param name="),),
        param=('<param name="', '">', "</param>"),
    ),
    Format("glm", "keys", "<tool_call>", "</tool_call>", source=(("<arg_key>", "<arg_value>"),)),
    Format(
        "functionary",
        "named",
        "<function=",
        "</function>",
        source=(("<function=", "</function>"),),
        head="{name}>",
        header=r"([\w.-]+)>\s*",
    ),
    _HERMES,
    Format(
        "llama-3",
        "objects",
        "",
        source=(("<|python_tag|>",), ('"parameters": dictionary of argument name',), ('{"name": function name',)),
        vocabulary=("<|python_tag|>", "<|eom_id|>"),
        also=("<|python_tag|>",),
        keys=("name", "parameters"),
        bare=True,
    ),
)


def detect(source: str, vocabulary: Container[str]) -> Format:
    """The form of a model with this template and these special tokens. Where neither says anything of calls, it is Hermes'."""
    for form in FORMATS:
        if any(all(text in source for text in texts) for texts in form.source):
            return form
    if "tools" in source or not source:  # else the template tells of no tools, and adapt does so in Hermes' form
        for form in FORMATS:
            if form.vocabulary and all(token in vocabulary for token in form.vocabulary):
                return form
    return _HERMES


# ---- calls as a model would have written them ---------------------------------------------------------------------------


def spell(form: Format, calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls, each with `name` and `arguments` (an object, or text that is none), as the model writes them."""
    spelled = [_spelled(form, i, call["name"], call["arguments"]) for i, call in enumerate(calls)]
    if form.body == "objects" and form.listed:
        return f"{form.start}[{', '.join(spelled)}]{form.end}"
    if form.body == "python":
        return f"{form.start}{', '.join(spelled)}{form.end}"
    joint = "\n" if form.end.startswith("\n") or not form.start else ""
    each = f"{form.end}{joint}{form.start}".join(spelled)
    return f"{form.wrap[0]}{form.start}{each}{form.end}{form.wrap[1]}"


def _spelled(form: Format, i: int, name: str, arguments: Any) -> str:
    text = arguments if isinstance(arguments, str) else _json(arguments)
    if form.body == "objects":
        if form.keyed:
            return f"{{{_json(name)}: {text}}}"
        value = _json(arguments) if isinstance(arguments, str) else text
        return f"{{{_json(form.keys[0])}: {_json(name)}, {_json(form.keys[1])}: {value}}}"
    if form.body == "named" or not isinstance(arguments, Mapping):
        head = form.head if form.body == "named" else '{name}">' if form.start.endswith('"') else "{name}>"
        return head.format(name=name, i=i) + text
    if form.body == "python":
        return f"{name}({', '.join(f'{key}={_python(value)}' for key, value in arguments.items())})"
    if form.body == "braces":
        return name + _braces(arguments)
    plain = {key: value if isinstance(value, str) else _json(value) for key, value in arguments.items()}
    if form.body == "keys":
        pairs = (f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in plain.items())
        return f"{name}\n{''.join(pairs)}"
    before, between, after = form.param
    closing = '">\n' if form.start.endswith('"') else ">\n"
    return name + closing + "".join(f"{before}{key}{between}{value}{after}" for key, value in plain.items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _python(value: Any) -> str:
    """A JSON value as a Python literal, strings in double quotes as far as JSON's escapes are Python's too."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_json(str(key))}: {_python(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_python, value)) + "]"
    return {"true": "True", "false": "False", "null": "None"}.get(text := _json(value), text)


def _braces(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_braces(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_braces, value)) + "]"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else _json(value)


# ---- grammars ----------------------------------------------------------------------------------------------------------


def grammar(
    form: Format,
    offered: Offer,
    *,
    literal: Callable[[str], str],
    json_rule: Callable[[dict[str, Any]], str],
    answer: str | None = None,
) -> str:
    """Lark text (llguidance's) of what an answer may be: calls that satisfy their schemas, or, where a call is the model's
    choice, also `answer`, a Lark expression, or any text, in which calls of strict tools satisfy theirs. `literal`: a text,
    maybe a control token, as a Lark expression; `json_rule`: a JSON schema as one.
    """
    return _Writer(form, offered, literal, json_rule).text(answer)


def is_plain(schema: Any) -> bool:
    """Whether an object's schema is no more than its parameters, so that each can be written apart."""
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object" or set(schema) - _OBJECT_WORDS:
        return False
    properties = schema.get("properties", {})
    return (
        isinstance(properties, Mapping)
        and all(isinstance(item, Mapping) and _refers_inside(item) for item in properties.values())
        and all(re.fullmatch(r"[\w.-]+", key) for key in properties)
        and set(schema.get("required", ())) <= set(properties)
    )


def is_free_text(schema: Schema) -> bool:
    """Whether any text satisfies the schema."""
    return schema.get("type") == "string" and not set(schema) - {"type", "description", "title", "default", "examples"}


_OBJECT_WORDS = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "description",
    "title",
    "$schema",
    "$defs",
    "definitions",
}


def _refers_inside(schema: Any) -> bool:
    """Whether all references in a schema lead to the definitions, which can be given along with it."""
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str) and not reference.startswith(("#/$defs/", "#/definitions/")):
            return False
        return not {"$id", "$anchor", "$dynamicRef"} & set(schema) and all(map(_refers_inside, schema.values()))
    return all(map(_refers_inside, schema)) if isinstance(schema, list) else True


class _Writer:
    """Writes one grammar."""

    def __init__(
        self, form: Format, offered: Offer, literal: Callable[[str], str], json_rule: Callable[[dict[str, Any]], str]
    ) -> None:
        self._form = form
        self._offered = offered
        self._literal = literal
        self._json_rule = json_rule
        self._rules: list[str] = []

    def text(self, answer: str | None) -> str:
        form, offered = self._form, self._offered
        items = [self._item(i, name) for i, name in enumerate(offered.schemas)]
        self._rule("item", " | ".join(items))
        opening, closing = form.start, self._ending(form.end)
        if not form.start and form.also and not form.bare:
            opening = form.also[0]
        most = 1 if offered.single else _MOST_CALLS
        comma = '", "'
        if form.body == "python" or (form.body == "objects" and form.listed):
            brackets = ('"["', '"]"') if form.body == "objects" else ("", "")
            inner = f"item ({comma} item){{0,{most - 1}}}" if most > 1 else "item"
            body, n_blocks, joint = f"{brackets[0]} {inner} {brackets[1]} {closing}", 1, ""
        else:
            body, n_blocks = f"item {closing}", most
            joint = "\n" if form.end.startswith("\n") or not form.start else ""
        if offered.required or answer is not None:
            self._rule("call", f"{self._marked(opening)} {body}")
            again = f" ({self._marked(joint)} call){{0,{n_blocks - 1}}}" if n_blocks > 1 else ""
            self._rule("calls", f"{self._marked(form.wrap[0])} call{again} {self._ending(form.wrap[1])}")
            if answer is not None:
                self._rules.append(f"answer: {answer}")
            self._rule("start", "calls" if answer is None else "calls | answer")
            return "\n".join(["%llguidance {}", *reversed(self._rules)])
        trigger, rest = self._trigger(opening)
        self._rules.append("TEXT: /(.|\\n)*/")
        before, after = (self._marked(text.strip()) for text in form.wrap)
        if trigger.startswith("<["):
            self._rule("opening", f"TEXT {trigger}")
        else:
            self._rules.append(f"plain[lazy]: TEXT {trigger}")
            self._rule("opening", "plain")
        if before.startswith("<["):  # text has no control tokens
            self._rules.append(f"opening: TEXT {before} /\\s*/ {trigger} | " + self._rules.pop().partition(": ")[2])
        closed = f"(/\\s*/ {after})?" if after.startswith("<[") else ""
        self._rule("call", f"opening {rest} {body} {closed}")
        self._rule("tail", "TEXT")
        self._rule("start", f"call{{0,{n_blocks}}} tail")
        return "\n".join(["%llguidance {}", *reversed(self._rules)])

    def _rule(self, name: str, body: str) -> None:
        self._rules.append(f"{name}: {' '.join(body.split(chr(32)))}")

    def _marked(self, text: str) -> str:
        """Text in which control tokens may stand."""
        return " ".join(self._literal(part) for part in self._parts(text))

    def _parts(self, text: str) -> Iterator[str]:
        markers = [marker for marker in self._form.markers if self._literal(marker).startswith("<")]
        if not markers:
            if text:
                yield text
            return
        for part in re.split(f"({'|'.join(map(re.escape, markers))})", text):
            if part:
                yield part

    def _trigger(self, opening: str) -> tuple[str, str]:
        """The first part of the opening, which tells of a call, and what has to follow it."""
        first, *rest = self._parts(opening)
        if not self._literal(first).startswith("<") and first != first.rstrip():
            rest.insert(0, first[len(first.rstrip()) :])
            first = first.rstrip()
        return self._literal(first), " ".join(map(self._literal, rest))

    def _ending(self, text: str) -> str:
        """The closing marker. gpt-oss and Solar end their turns with it: the engine sees an end, whatever the grammar says."""
        return "" if text in ("<|call|>", "<|calls|>") else self._marked(text)

    def _item(self, i: int, name: str) -> str:
        """The rule of one function's call, without the markers around it."""
        form, schema = self._form, dict(self._offered.schemas[name])
        free = not self._offered.required and name not in self._offered.strict
        rule, args = f"item_{i}", f"args_{i}"
        if free:
            schema = {"type": "object"}
        if form.body in ("tags", "keys", "python") and is_plain(schema) and not free:
            self._rule(rule, self._parameters(i, name, schema))
            return rule
        self._rule(args, self._json_rule(schema))
        if form.body == "objects":
            if form.keyed:
                self._rule(rule, f'{_quoted("{" + _json(name) + ": ")} {args} "}}"')
            else:
                before = f"{{{_json(form.keys[0])}: {_json(name)}, {_json(form.keys[1])}: "
                self._rule(rule, f'{_quoted(before)} {args} "}}"')
        elif form.body == "named":
            # Kimi numbers its calls; the number is of no use to anyone, so all are the first.
            self._rule(rule, f"{self._marked(form.head.format(name=name, i=0))} {args}")
        elif form.body == "braces":
            self._rule(rule, f"{_quoted(name)} {args}")
        elif form.body == "python":
            self._rule(rule, f"{_quoted(name + '(**')} {args} {_quoted(')')}")
        else:  # JSON between the tags, which the parser reads as well
            head = name + ('">' if form.start.endswith('"') else ">" if form.body == "tags" else "\n")
            self._rule(rule, f"{_quoted(head)} {args} {_quoted(chr(10))}")
        return rule

    def _parameters(self, i: int, name: str, schema: dict[str, Any]) -> str:
        form = self._form
        definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        required = set(schema.get("required", ()))
        properties = [
            (key, {**definitions, **value} if "$ref" in json.dumps(value) else dict(value))
            for key, value in schema.get("properties", {}).items()
        ]
        if form.body == "python":
            return f"{_quoted(name + '(')} {self._keywords(i, properties, required)} {_quoted(')')}"
        rules = []
        before, between, after = (
            form.param if form.body == "tags" else ("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
        )
        for j, (key, value) in enumerate(properties):
            rule = f"p_{i}_{j}"
            head = self._marked(before + key + between)
            if is_free_text(value):
                text, ending = f"t_{i}_{j}", self._marked(after)
                if "<[" in ending:  # no text holds control tokens; a line break before one is not the text's
                    self._rules.append(f"{text}: /(.|\\n)*/")
                    self._rule(rule, f"{head} {text} {ending[ending.index('<[') :]}")
                else:
                    self._rules.append(f"{text}[suffix={_quoted(after)}]: /(.|\\n)*/")
                    self._rule(rule, f"{head} {text}")
            else:
                self._rule(f"v_{i}_{j}", _choices(value) or self._json_rule(value))
                self._rule(rule, f"{head} v_{i}_{j} {self._marked(after)}")
            rules.append(rule if key in required else f"{rule}?")
        closing = "\n" if form.body == "keys" else '">\n' if form.start.endswith('"') else ">\n"
        return f"{_quoted(name + closing)} {' '.join(rules)}"

    def _keywords(self, i: int, properties: list[tuple[str, dict[str, Any]]], required: set[str]) -> str:
        """Keyword arguments in the schema's order, the optional ones maybe left out. `f_…`: none was written yet."""
        for kind in "fr":
            self._rule(f"{kind}_{i}_{len(properties)}", '""')
        for j in range(len(properties) - 1, -1, -1):
            key, value = properties[j]
            self._rule(
                f"v_{i}_{j}",
                '("True" | "False")' if value.get("type") == "boolean" and len(value) < 3 else self._json_rule(value),
            )
            for kind in "fr":
                head = ("" if kind == "f" else ", ") + key + "="
                without = "" if key in required else f" | {kind}_{i}_{j + 1}"
                self._rule(f"{kind}_{i}_{j}", f"{_quoted(head)} v_{i}_{j} r_{i}_{j + 1}{without}")
        return f"f_{i}_0"


def _choices(schema: Schema) -> str | None:
    """Texts that a parameter may be, written as they are; None if it is not about such."""
    values = schema.get("enum")
    if set(schema) - {"type", "enum", "description", "title", "default"} or schema.get("type", "string") != "string":
        return None
    if not isinstance(values, list) or not all(
        isinstance(value, str) and re.fullmatch(r"[\w .,-]+", value) for value in values
    ):
        return None
    return " | ".join(map(_quoted, values))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
