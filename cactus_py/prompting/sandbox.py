"""A jinja2 environment for templates that come out of model files, that is, from strangers.

jinja2's sandbox keeps a template from Python's internals. It does not keep it from eating the machine: `"a" * 10**9`, a loop
in a loop in a loop, a string that doubles forty times. Here every run has a budget (`Limits`) of steps, of memory and of
time, and everything that repeats or grows is charged to it: loops, calls, filters, operators, slices, literals, output. Where
jinja2 offers no hook, the parsed template is rewritten so that a filter of ours stands in the way (`_Instrument`). Filters
and methods that chat templates do not need and that can be made to grow without measure are left out.

Otherwise it behaves as the environment that Hugging Face's transformers gives to chat templates: blocks trimmed, loop
controls, `raise_exception`, `strftime_now`, a `tojson` without HTML escapes, `generation` blocks shown as they are.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType
from typing import Any, ClassVar, NoReturn

import jinja2
import markupsafe
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context, pass_environment
from jinja2.visitor import NodeTransformer

from ..errors import TemplateError

__all__ = ["Limits", "budget", "environment", "parse"]

_MAX_INT_BITS = 4096
_MAX_PAD = 10_000  # characters that one padding operation may ask for
_MAX_INDENT = 64
_MAX_RANGE = 100_000  # as in jinja2's own sandbox

_LOOP, _CONCAT, _GROWN = "cactus loop", "cactus concat", "cactus grown"  # no template can spell a filter name with a space


@dataclass(frozen=True)
class Limits:
    """What one run of a template may use up. `units` are characters and list items made, roughly the memory touched."""

    steps: int = 2_000_000
    units: int = 64 << 20
    seconds: float = 5.0


class _Budget:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._steps = limits.steps
        self._units = limits.units
        self._deadline = time.monotonic() + limits.seconds

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise TemplateError(f"the chat template was stopped: it took more than {self._limits.steps} steps")
        if time.monotonic() > self._deadline:
            raise TemplateError(f"the chat template was stopped: it ran for more than {self._limits.seconds:g} seconds")

    def charge(self, units: int) -> None:
        self._units -= units
        if self._units < 0:
            raise TemplateError(f"the chat template was stopped: it made more than {self._limits.units} characters or items")


_current: ContextVar[_Budget | None] = ContextVar("cactus_py_template_budget", default=None)
_COMPILE_LIMITS = Limits(steps=100_000, units=1 << 20, seconds=5.0)  # what constant folding inside jinja2 may use


@contextmanager
def budget(limits: Limits) -> Iterator[None]:
    """Everything that a template does inside this block is charged to one budget."""
    token = _current.set(_Budget(limits))
    try:
        yield
    finally:
        _current.reset(token)


def _spend() -> _Budget:
    return _current.get() or _Budget(_COMPILE_LIMITS)


def _grown(value: Any) -> Any:
    """Charges for a value that was just made. Containers are walked, shared parts as often as they appear: a list of two
    lists of two lists … costs a template as much to build as it would cost us to print or compare."""
    spend = _spend()
    if isinstance(value, (str, bytes)):
        spend.charge(len(value))
    elif isinstance(value, (list, tuple, dict)):
        stack: list[Any] = [value]
        while stack:
            item = stack.pop()
            spend.step()
            if isinstance(item, dict):
                spend.charge(len(item) + 1)
                stack.extend(v for v in item.values() if isinstance(v, (list, tuple, dict)))
            else:
                spend.charge(len(item) + 1)
                stack.extend(v for v in item if isinstance(v, (list, tuple, dict)))
    return value


def _text(value: Any) -> str:
    """str(value) for what a template may print; refuses what could only be printed by accident or on purpose."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (bool, int, float, Undefined)):
        return str(value)
    if isinstance(value, (list, tuple, dict)):
        stack: list[Any] = [value]
        spend = _spend()
        while stack:
            item = stack.pop()
            spend.step()
            if isinstance(item, dict):
                stack.extend(item.keys())
                stack.extend(item.values())
            elif isinstance(item, (list, tuple)):
                stack.extend(item)
            elif isinstance(item, str):
                spend.charge(4 * len(item))  # repr may escape
            elif item is not None and not isinstance(item, (bool, int, float)):
                raise TemplateError(f"the chat template prints a list that holds a {type(item).__name__}")
        return str(value)
    if isinstance(value, (jinja2.runtime.Macro, Namespace, LoopContext)) or not isinstance(value, (range,)):
        raise TemplateError(f"the chat template prints a {type(value).__name__}, which has no text")
    return str(value)


# ---- filters -----------------------------------------------------------------------------------------------------------


@pass_context
def _loop(_context: Context, iterable: Any) -> Iterator[Any]:
    return _stepping(iterable)


def _stepping(iterable: Any) -> Iterator[Any]:
    if isinstance(iterable, Undefined):
        yield from iterable  # nothing, or the error that an undefined name deserves
        return
    for item in iterable:
        _spend().step()
        yield item


@pass_context
def _concat(_context: Context, parts: Iterable[Any]) -> str:
    texts = [_text(part) for part in parts]
    _spend().step()
    _spend().charge(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _grown_filter(_context: Context, value: Any) -> Any:
    return _grown(value)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as json.dumps writes it: a prompt is not HTML, so nothing is escaped for it."""
    if (isinstance(indent, int) and indent > _MAX_INDENT) or (isinstance(indent, str) and len(indent) > _MAX_INDENT):
        raise TemplateError(f"the chat template asks tojson for an indent of more than {_MAX_INDENT}")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    spend = _spend()
    pieces: list[str] = []
    for piece in encoder.iterencode(value):  # by pieces: a value that is small in memory can be huge when written
        spend.step()
        spend.charge(len(piece))
        pieces.append(piece)
    return "".join(pieces)


@pass_environment
def _join(env: jinja2.Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    spend = _spend()
    get = make_attrgetter(env, attribute) if attribute is not None else None
    texts: list[str] = []
    for item in value:
        spend.step()
        texts.append(_text(get(item) if get else item))
        spend.charge(len(texts[-1]) + len(d))
    return str(d).join(texts)


def _charge_replace(s: str, old: str, new: str) -> None:
    pieces = s.count(old) if old else len(s) + 1
    _spend().charge(len(s) + pieces * len(new))


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = _text(s), _text(old), _text(new)
    _charge_replace(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not isinstance(precision, int) or abs(precision) > 100:
        raise TemplateError("the chat template rounds to more than 100 digits")
    return jinja2.filters.do_round(value, precision, method)  # type: ignore[arg-type]


@pass_environment
def _sum(env: jinja2.Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: float = 0) -> Any:
    get = make_attrgetter(env, attribute) if attribute is not None else None
    total: Any = start
    for item in iterable:
        _spend().step()
        number = get(item) if get else item
        if not all(isinstance(v, (int, float)) for v in (number, total)):
            raise TemplateError("the chat template sums values that are not numbers")
        total = total + number
    return total


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = _text(s)
    size = width if isinstance(width, int) else len(width)
    if size > _MAX_INDENT:
        raise TemplateError(f"the chat template indents by more than {_MAX_INDENT}")
    _spend().charge(len(text) + (text.count("\n") + 1) * max(size, 0))
    return jinja2.filters.do_indent(text, width, first, blank)


def _string(value: Any) -> str:
    return _text(value)


def _escape(value: Any) -> str:
    """HTML escapes, for the rare template that asks; the result is ordinary text."""
    return str(markupsafe.escape(_text(value)))


def _safe(value: Any) -> str:
    """Does nothing: no escaping is on, so there is nothing to be safe from."""
    return _text(value)


_KEPT_FILTERS = """
abs attr capitalize count d default dictsort first float groupby int items last length list lower map max min reject rejectattr
reverse select selectattr sort title trim truncate unique upper wordcount
""".split()  # noqa: SIM905

_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "e": _escape,
    "escape": _escape,
    "forceescape": _escape,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "safe": _safe,
    "string": _string,
    "sum": _sum,
    "tojson": _tojson,
}


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # copies the mark by which jinja2 knows that a filter wants its environment or context
    def run(*args: Any, **kwargs: Any) -> Any:
        _spend().step()
        return _grown(function(*args, **kwargs))

    return run


# ---- globals -----------------------------------------------------------------------------------------------------------


def _raise_exception(message: Any = "the chat template refuses these messages") -> NoReturn:
    raise TemplateError(f"the model's chat template refuses these messages: {_text(message)}")


_clock: ContextVar[Callable[[], datetime]] = ContextVar("cactus_py_template_clock", default=datetime.now)


@contextmanager
def clock(now: datetime | None) -> Iterator[None]:
    """Inside this block templates see `now` as the time (None: the real one)."""
    if now is None:
        yield
        return
    token = _clock.set(lambda: now)
    try:
        yield
    finally:
        _clock.reset(token)


def _strftime_now(format: Any = "%Y-%m-%d") -> str:
    text = _text(format)
    if len(text) > 200 or re.search(r"%[^a-zA-Z%]*\d{2,}", text):
        raise TemplateError("the chat template asks for the time in a format that is too long")
    return _clock.get()().strftime(text)


def _range(*bounds: int) -> range:
    values = range(*bounds)
    if len(values) > _MAX_RANGE:  # it takes no memory itself, but filters and operators would walk it unseen
        raise TemplateError(f"the chat template asks for a range of more than {_MAX_RANGE} numbers")
    return values


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


# ---- the environment ---------------------------------------------------------------------------------------------------

_STRING_METHODS = """
capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal isdigit isidentifier islower
isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix replace rfind rindex
rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill
""".split()  # noqa: SIM905

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_STRING_METHODS),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    int: frozenset(),
    float: frozenset(("is_integer",)),
    bytes: frozenset(),
}


def _check_call(function: Any, args: tuple[Any, ...]) -> None:
    """Charges, before it runs, for a string method whose result can be much larger than what it is given."""
    function = getattr(function, "__wrapped__", function)  # jinja2 wraps str.format
    owner = getattr(function, "__self__", None)
    if not isinstance(function, BuiltinMethodType) or not isinstance(owner, str):
        return
    name = function.__name__
    if name in ("center", "ljust", "rjust", "zfill"):
        if args and isinstance(args[0], int) and args[0] > max(_MAX_PAD, len(owner)):
            raise TemplateError(f"the chat template pads a string to more than {_MAX_PAD} characters")
    elif name == "replace":
        if len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
            _charge_replace(owner, args[0], args[1])
    elif name == "join":
        if not args or not isinstance(args[0], (list, tuple, str)):
            raise TemplateError("the chat template joins something that is not a list")
        _spend().charge(sum(len(part) + len(owner) for part in args[0] if isinstance(part, str)))
    elif name == "format":
        if re.search(r"\d{4,}|[:!][^{}]*\{", owner):
            raise TemplateError("the chat template formats a string with a width that is too large or computed")
        for value in args:
            _spend().charge(len(_text(value)))


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def concat(self, parts: Iterable[str]) -> str:
        """Joins the output of a template, a macro or a block."""
        spend = _spend()
        texts: list[str] = []
        for text in parts:
            spend.charge(len(text) + 1)
            texts.append(text)
        return "".join(texts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        spend = _spend()
        spend.step()
        _check_call(__obj, args)
        if isinstance(__obj, LoopContext) and args:  # a recursive loop starts its next level here
            args = (_stepping(args[0]), *args[1:])
        return _grown(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        spend = _spend()
        spend.step()
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
                    spend.charge(max(0, times) * (len(many) + 1))
        elif operator == "+" and isinstance(left, (str, bytes, list, tuple)) and isinstance(right, type(left)):
            spend.charge(len(left) + len(right))
        elif operator == "%" and isinstance(left, (str, bytes)):
            if isinstance(left, bytes) or re.search(r"%[^%a-zA-Z]*(\*|\d{4,})", left):
                raise TemplateError("the chat template formats a string with a width that is too large or computed")
            spend.charge(len(left) + sum(len(_text(v)) for v in (right if isinstance(right, tuple) else (right,))))
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(0, right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MAX_INT_BITS:
                raise TemplateError(f"the chat template computes with numbers of more than {_MAX_INT_BITS} bits")
        return _grown(super().call_binop(context, operator, left, right))


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks, for training, what the assistant said. Here it only shows its body."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.If(nodes.Const(True), body, [], []).set_lineno(line)


class _Instrument(NodeTransformer):
    """Puts a filter of ours around everything that repeats or grows and that jinja2 compiles to plain Python."""

    @staticmethod
    def _wrap(node: nodes.Node, name: str) -> nodes.Filter:
        wrapped = nodes.Filter(node, name, [], [], None, None)
        wrapped.set_lineno(node.lineno)
        return wrapped

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._wrap(node.iter, _LOOP)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(nodes.List(node.nodes).set_lineno(node.lineno), _CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(node, _GROWN) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(node, _GROWN)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(node, _GROWN)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(node, _GROWN) if node.ctx == "load" else node


@pass_context
def _finalize(_context: Context, value: Any) -> str:
    return _text(value)


def environment() -> jinja2.Environment:
    """The environment in which all chat templates run. It holds no state of a run and may be shared between threads."""
    env = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation], finalize=_finalize)
    env.filters = {name: _charged(env.filters[name]) for name in _KEPT_FILTERS if name in env.filters}
    env.filters |= {name: _charged(function) for name, function in _OWN_FILTERS.items()}
    env.filters |= {_LOOP: _loop, _CONCAT: _concat, _GROWN: _grown_filter}
    env.globals = {
        "dict": _dict,
        "namespace": Namespace,
        "raise_exception": _raise_exception,
        "range": _range,
        "strftime_now": _strftime_now,
    }
    return env


def parse(env: jinja2.Environment, source: str) -> nodes.Template:
    """The template's tree, with the budget's filters in place."""
    tree = env.parse(source)
    _Instrument().visit(tree)
    tree.set_environment(env)
    return tree


def render(template: jinja2.Template, variables: Mapping[str, Any], limits: Limits, now: datetime | None = None) -> str:
    """Runs a compiled template. Raises TemplateError for whatever goes wrong in it."""
    try:
        with budget(limits), clock(now):
            return template.render(variables)
    except TemplateError:
        raise
    except jinja2.TemplateError as error:
        what = "does something that is not allowed" if isinstance(error, SecurityError) else "failed"
        raise TemplateError(f"the model's chat template {what}: {error.message}") from None
    except RecursionError:
        raise TemplateError("the chat template was stopped: it calls itself without end") from None
    except MemoryError:
        raise TemplateError("the chat template was stopped: it needs more memory than there is") from None
    except Exception as error:  # whatever Python raises for the operations that a stranger's template asks for
        raise TemplateError(f"the model's chat template failed: {type(error).__name__}: {error}") from None
