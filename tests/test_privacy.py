"""What stays on the device, what is taken out of what leaves it, and what is written down about that.

Card numbers are those that networks publish for tests, IBANs the examples of SWIFT's registry, telephone numbers those that
regulators keep for fiction (Ofcom, NANPA) and offices' own; keys are made up in the shapes that their issuers document.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import random
import re
import stat
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from cactus_py.config import RouterSettings
from cactus_py.errors import ConfigError, InvalidRequestError, MissingExtraError, StoreError
from cactus_py.routing import audit, sensitive
from cactus_py.routing.audit import AuditLog
from cactus_py.routing.privacy import Privacy, Redactor, Restorer
from cactus_py.types import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    RouteDecision,
    TranscriptionRequest,
)

ALL = ["email", "phone", "card", "iban", "key"]
HEX32 = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA75\nq+3a/4xF==\n-----END RSA PRIVATE KEY-----"

SAMPLES = [
    ("email", "jane.doe+news@mail.example.co.uk"),
    ("email", "o'brien@example.org"),
    ("email", "müller@bücher.example"),
    ("email", "x_1%y@sub-domain.example.museum"),
    ("card", "4111111111111111"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5555-5555-5555-4444"),
    ("card", "3782 822463 10005"),
    ("card", "30569309025904"),
    ("card", "6011 1111 1111 1117"),
    ("card", "3530111333300000"),
    ("card", "2223003122003222"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB29NWBK60161331926819"),
    ("iban", "FR14 2004 1010 0505 0001 3M02 606"),
    ("iban", "NO93 8601 1117 947"),
    ("iban", "gb29 nwbk 6016 1331 9268 19"),
    ("phone", "+49 30 901820"),
    ("phone", "+1-202-555-0134"),
    ("phone", "+44 (0)20 7946 0958"),
    ("phone", "(202) 555-0134"),
    ("phone", "202-555-0134"),
    ("phone", "202.555.0134"),
    ("phone", "020 7946 0958"),
    ("phone", "030/901820"),
    ("phone", "06 12 34 56 78"),
    ("phone", "0049 30 901820"),
    ("phone", "(11) 98765-4321"),
    ("key", "sk-proj-abcDEF0123456789abcdEFGH"),
    ("key", "sk-ant-api03-abcDEF0123456789_abcd-EFGH"),
    ("key", "AKIAIOSFODNN7EXAMPLE"),
    ("key", "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
    ("key", "github_pat_11ABCDEFG0123456789abcdef"),
    ("key", "xoxb-123456789012-abcdefABCDEF"),
    ("key", "sk_live_0123456789abcdef"),
    ("key", "AIzaSyA0123456789abcdefghijklmnopqrstuv"),
    ("key", "hf_abcdefghijABCDEFGHIJabcdefghij1234"),
    ("key", JWT),
    ("key", PEM),
    ("key", HEX32),
    ("key", "b7Kp2xQ9LmZ4vRt8Ws1YcN6Hd3Gf5JaE0uToXiPk"),
]


def chat(*contents: Any, **more: Any) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    return ChatCompletionRequest.model_validate({"messages": messages, **more})


def redacted(text: str, kinds: list[str] | None = None) -> str:
    request, restorer = Redactor(kinds or ALL).redact(chat(text))
    changed = request.messages[0].content
    assert isinstance(changed, str)
    assert restorer.text(changed) == text
    return changed


@pytest.mark.parametrize(("kind", "value"), SAMPLES)
@pytest.mark.parametrize("text", ["Use {} today.", "{}", '"{}", she said', "({})", "a: {}\nb"])
def test_finds_samples(kind: str, value: str, text: str) -> None:
    assert redacted(text.format(value)) == text.format(f"<{kind.upper()}_1>")


@pytest.mark.parametrize(("kind", "value"), SAMPLES)
def test_a_kind_that_is_not_asked_for_stays(kind: str, value: str) -> None:
    request = chat(f"Use {value} today.")
    assert Redactor([])  # none at all is possible
    assert Redactor([]).redact(request)[0] is request
    assert f"<{kind.upper()}_" not in redacted(f"Use {value} today.", [other for other in ALL if other != kind])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password: hunter2!x", "password: <KEY_1>"),
        ('api_key="abc 123 def"', 'api_key="<KEY_1>"'),
        ("DB_PASSWORD=s3cr3t99\n", "DB_PASSWORD=<KEY_1>\n"),
        ('{"client_secret": "abc123"}', '{"client_secret": "<KEY_1>"}'),
        ("my password is hunter22, and hunter22 is weak", "my password is <KEY_1>, and <KEY_1> is weak"),
        ("Authorization: Bearer abcdefghij0123456789", "Authorization: Bearer <KEY_1>"),
        ("postgres://app:s3cret@db.internal/x", "postgres://app:<KEY_1>/x"),
        ("Tel.: 901820 44", "Tel.: <PHONE_1>"),
        ("call me at 0301234567", "call me at <PHONE_1>"),
        ("2024 4111 1111 1111 1111 12", "2024 <CARD_1> 12"),
        ("a@b.example A@b.example a@b.example", "<EMAIL_1> <EMAIL_2> <EMAIL_1>"),
    ],
)
def test_finds_by_what_stands_around(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Order 112-3456789-1234567 of 2024-01-05, invoice no. 0301234567, ticket #98765432",
        "On 05.01.2024 10:30, 05/01/2024, 2024-01-05T10:30:00Z, 20240105103000, 1704450600",
        "Version 1.2.3.4, 10.15.7, 192.168.100.200, 2001:db8::8a2e:370:7334",
        "commit 951d115951d1a5951d115951d1b5951d115951d1, tree 0123456789abcdef0123456789abcdef01234567",
        "550e8400-e29b-41d4-a716-446655440000 and 6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
        "$1,234,567.89 or 1 234 567 890 EUR or 3.14159265358979",
        "4111 1111 1111 1112 and 1234567812345678 and 4242-4242-4242-4241",  # no checksum
        "GB28NWBK60161331926819 and XX89370400440532013000",
        "ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2",
        "pip install pkg@1.2.3; npm i @types/node@18.0.1; git clone git@github.com:org/repo.git",
        "getElementByIdAndRemoveAllChildNodesFromParent and /usr/local/lib/python3/site-packages/numpy/core",
        "password: required; token: string; api_key = os.environ[KEY]; secret = load_secret(name); password=None",
        "The password is wrong. Is the token expired? Forgot password?",
        "scores 12 15 18 22 31 45 67 89 90, 0.123456789, 1e10, 100000000",
        "sk-learn and task-based-learning-of-many-things, tokens: 4096, max_tokens=256, key: value",
        "0000000000000000 ================================ --------------------------------",
    ],
)
def test_near_misses_stay(text: str) -> None:
    assert redacted(text) == text


PIECES = st.one_of(
    st.sampled_from([value for _, value in SAMPLES]),
    st.sampled_from(
        [
            "<EMAIL_1>",
            "EMAIL_1",
            "<email 2>",
            "PHONE_1>",
            "<KEY_",
            "<",
            ">",
            "1",
            "_",
            "\\",
            " ",
            "password: ",
            "key 1",
            "\n",
            "<C",
        ]
    ),
    st.text(max_size=6).filter(lambda text: text.isprintable() and "\ud800" not in text),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.data())
def test_what_is_taken_out_comes_back(texts: list[str], data: st.DataObject) -> None:
    request, restorer = Redactor(ALL).redact(chat(*texts))
    for text, message in zip(texts, request.messages, strict=True):
        changed = message.content
        assert isinstance(changed, str)
        assert restorer.text(changed) == text if not text.startswith(("{", "[")) else True
        cuts = sorted(data.draw(st.lists(st.integers(0, len(changed)), max_size=8)))
        stream = restorer.fork()
        pieces = [changed[a:b] for a, b in zip([0, *cuts], [*cuts, len(changed)], strict=True)]
        assert "".join(map(stream.push, pieces)) + stream.finish() == restorer.text(changed)


VALUES = {"EMAIL_1": 'a"b\n@x.example', "EMAIL_12": "z@x.example", "KEY_1": "k"}
SPOKEN = st.lists(
    st.sampled_from(
        [
            "<EMAIL_1>",
            "EMAIL_1",
            "email_1",
            "<Email 1>",
            "<EMAIL1",
            ">",
            "EMAIL\\_12",
            "<EMAIL_9>",
            "<KEY_1>",
            "\\u003cKEY_1",
            "\\u003e",
            "\\n",
            "2",
            "x",
            " ",
            "<",
            "K",
            "\\",
            "_",
            "KEY_1",
            "EM",
        ]
    ),
    max_size=10,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(SPOKEN, st.booleans())
def test_any_cut_gives_the_same(text: str, as_json: bool) -> None:
    whole = Restorer(VALUES, json=as_json).text(text)
    for size in (1, 2, 3, 5):
        stream = Restorer(VALUES, json=as_json)
        assert "".join(stream.push(text[i : i + size]) for i in range(0, len(text), size)) + stream.finish() == whole


def test_holds_back_no_more_than_needed() -> None:
    stream = Restorer({"EMAIL_1": "a@b.example"})
    heard = [stream.push(letter) for letter in "if a < b: <EMAIL_1>, <EMAIL_2> E-mail EMAIL_1."]
    assert "".join(heard) + stream.finish() == "if a < b: a@b.example, <EMAIL_2> E-mail a@b.example."
    assert heard[:10] == ["i", "f", " ", "a", " ", "", "", "< b", ":", " "]
    assert Restorer({}).push("<EMAIL_") == "<EMAIL_"


@pytest.mark.parametrize("spoken", ["<EMAIL_1>", "<email_1>", "<Email 1>", "<EMAIL1>", "< EMAIL-1 >", "<EMAIL\\_1>", "EMAIL_1"])
def test_changed_placeholders_are_understood(spoken: str) -> None:
    assert Restorer({"EMAIL_1": "a@b.example"}).text(f"to {spoken}.") == "to a@b.example."


@pytest.mark.parametrize("spoken", ["email 1", "Email_1", "EMAIL_10", "XEMAIL_1", "EMAIL 1", "<EMAIL_2>", "<EMAIL_01>"])
def test_what_could_mean_something_else_stays(spoken: str) -> None:
    assert Restorer({"EMAIL_1": "a@b.example"}).text(f"to {spoken}.") == f"to {spoken}."


def test_placeholders_of_the_user_are_not_used() -> None:
    text = "What is <EMAIL_1>, email 2 or EMAIL_4? Mine is a@b.example."
    assert redacted(text) == "What is <EMAIL_1>, email 2 or EMAIL_4? Mine is <EMAIL_3>."


def test_tool_calls_stay_json() -> None:
    arguments = '{"to" :  "a@b.example", "n": 4111111111111111, "t": "x\\u0040y.example\\n\\"q\\"", "password": "two words"}'
    call = {"id": "call_1", "type": "function", "function": {"name": "send", "arguments": arguments}}
    request, restorer = Redactor(ALL).redact(
        ChatCompletionRequest.model_validate(
            {
                "messages": [
                    {"role": "user", "content": "mail a@b.example"},
                    {"role": "assistant", "content": None, "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "call_1", "content": '{"phone": "0301234567"}'},
                ]
            }
        )
    )
    sent = request.messages[1].tool_calls[0].function.arguments  # type: ignore[union-attr]
    assert sent.startswith('{"to" :  "<EMAIL_1>", "n": "<CARD_1>"')
    fields = json.loads(sent)
    assert fields["t"] == '<EMAIL_2>\n"q"'
    assert fields["password"] == "<KEY_1>"
    assert json.loads(str(request.messages[2].content)) == {"phone": "<PHONE_1>"}
    back = json.loads(restorer.arguments(sent))
    assert back == {**json.loads(arguments), "n": "4111111111111111"}
    stream = restorer.fork(json=True)
    assert "".join(map(stream.push, sent)) + stream.finish() == restorer.arguments(sent)
    tricky = Restorer({"KEY_1": 'a"\\\n'})
    assert json.loads(tricky.arguments('{"k": "\\u003cKEY_1\\u003e"}')) == {"k": 'a"\\\n'}


def test_several_answers_keep_apart() -> None:
    first = Restorer({"KEY_1": "k"})
    second = first.fork()
    assert (first.push("<KEY"), second.push("a <"), first.push("_1>"), second.push("KEY_1>")) == ("", "a ", "k", "k")
    assert "k" not in repr(first).replace("Restorer", "")
    assert first.counts == {"key": 1}


# ---- every field -------------------------------------------------------------------------------------------------------

SECRET = "jane@corp.example"
SKIPPED = {"model", "language"}  # the endpoint's own model is asked; a language is one of a list


def full_chat(text: str) -> dict[str, Any]:
    function = {"name": "send", "description": text, "parameters": {"properties": {text: {"default": text, "enum": [text]}}}}
    call = {"name": text, "arguments": json.dumps({text: [text]})}
    parts = [{"type": "text", "text": text}]
    return {
        "messages": [
            {"role": "system", "content": text, "name": text},
            {"role": "developer", "content": parts, "name": text},
            {"role": "user", "content": parts, "name": text},
            {
                "role": "assistant",
                "content": [*parts, {"type": "refusal", "refusal": text}],
                "refusal": text,
                "name": text,
                "reasoning_content": text,
                "tool_calls": [{"id": text, "type": "function", "function": call}],
                "function_call": call,
                "annotations": [{"url": text}],
                "audio": {"id": text},
            },
            {"role": "tool", "content": text, "tool_call_id": text, "name": text},
            {"role": "function", "content": text, "name": text},
        ],
        "tools": [{"type": "function", "function": function}],
        "functions": [function],
        "tool_choice": {"function": {"name": text}},
        "function_call": {"name": text},
        "audio": {"voice": text},
        "prediction": {"content": text},
        "chat_template_kwargs": {"x": text},
        "metadata": {text: text},
        "service_tier": text,
        "safety_identifier": text,
        "prompt_cache_key": text,
        "stop": [text],
        "user": text,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "description": text, "schema": {"const": text}},
        },
    }


def requests(text: str) -> list[tuple[type[BaseModel], dict[str, Any]]]:
    return [
        (ChatCompletionRequest, full_chat(text)),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": "x"}], "guided_choice": [text]}),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": "x"}], "guided_regex": text}),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": "x"}], "guided_grammar": text}),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": "x"}], "guided_json": {"const": text}}),
        (CompletionRequest, {"prompt": [text, "x"], "suffix": text, "user": text, "stop": [text]}),
        (EmbeddingRequest, {"input": [text, "x"], "user": text}),
        (TranscriptionRequest, {"prompt": text}),
    ]


@pytest.mark.parametrize("index", range(8))
def test_every_field_is_redacted_and_checked(index: int) -> None:
    kind, fields = requests(SECRET)[index]
    request: Any = kind.model_validate(fields)
    assert SECRET in request.model_dump_json()
    sent, _ = Redactor(ALL).redact(request)
    assert SECRET not in sent.model_dump_json()
    assert "EMAIL_1" in sent.model_dump_json()
    assert Privacy(RouterSettings(private_patterns=["jane@corp"])).keeps_local(request) == "private_patterns[0] matches"


def texts_of(annotation: Any) -> bool:
    """Whether a field of this type can hold any text."""
    return annotation is str or re.search(r"\bstr\b|\bAny\b", str(annotation)) is not None


def test_no_field_was_forgotten() -> None:
    """Each field of a request that can hold text holds one in the requests above."""
    for kind in (ChatCompletionRequest, CompletionRequest, EmbeddingRequest):
        filled = {name for model, fields in requests(SECRET) if issubclass(model, kind) for name in fields}
        if kind is CompletionRequest:  # what it shares with chat is filled there
            filled |= {name for model, fields in requests(SECRET) if model is ChatCompletionRequest for name in fields}
        fields = {name for name, field in kind.model_fields.items() if texts_of(field.annotation)}
        assert fields - filled <= SKIPPED, kind
    spec = ChatCompletionRequest.model_json_schema()
    filled_names = {name for message in full_chat("x")["messages"] for name in message} | {"image_url", "input_audio", "file"}
    for name, model in spec["$defs"].items():
        if name.endswith("Message"):
            assert set(model["properties"]) <= filled_names, name


def test_images_audio_files_and_ids_cannot_be_redacted() -> None:
    url = "data:image/png;base64," + base64.b64encode(SECRET.encode()).decode()
    image = chat([{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": url}}])
    redactor = Redactor(ALL)
    assert redactor.cannot_redact(image) == "images cannot be redacted"
    assert redactor.redact(image)[0].messages[0].content[1].image_url.url == url  # type: ignore[union-attr, index]
    sound = chat([{"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}])
    assert redactor.cannot_redact(sound) == "audio cannot be redacted"
    file = chat([{"type": "file", "file": {"file_data": "QUJD"}}])
    assert redactor.cannot_redact(file) == "files cannot be redacted"
    assert redactor.cannot_redact(TranscriptionRequest()) == "speech cannot be redacted"
    ids = CompletionRequest(prompt=[1, 2, 3])
    assert redactor.cannot_redact(ids) == "token ids cannot be redacted"
    assert redactor.cannot_redact(EmbeddingRequest(input=[[1], [2]])) == "token ids cannot be redacted"
    assert redactor.cannot_redact(chat(SECRET)) is None
    assert Redactor([]).cannot_redact(image) is None
    privacy = Privacy(RouterSettings(private_patterns=["x"]))
    assert privacy.keeps_local(ids) == "token ids cannot be checked against private_patterns"
    assert privacy.keeps_local(file) == "files cannot be checked against private_patterns"
    assert privacy.keeps_local(chat([{"type": "image_url", "image_url": {"url": "http://h/x.png"}}])) is not None


def test_a_request_too_deep_is_not_sent() -> None:
    deep: Any = "x"
    for _ in range(230):
        deep = {"a": deep}
    request = chat("hello", chat_template_kwargs={"deep": deep})
    with pytest.raises(InvalidRequestError, match="too deeply"):
        Redactor(ALL).redact(request)
    reason = Privacy(RouterSettings(private_patterns=["zzz"])).keeps_local(request)
    assert reason is not None and "too deeply" in reason


def test_words_of_the_protocol_survive_as_passwords() -> None:
    text = "password: user1234 and secret: assistant and token=function and pwd: json_schema1"
    request, restorer = Redactor(ALL).redact(chat(text, tool_choice="auto"))
    assert request.messages[0].role == "user"
    assert restorer.text(str(request.messages[0].content)) == text


# ---- what stays --------------------------------------------------------------------------------------------------------


def test_local_only() -> None:
    assert Privacy(RouterSettings()).keeps_local(chat("x")) is None
    assert Privacy(RouterSettings(privacy="local_only")).keeps_local(chat("x")) == 'the router\'s privacy is "local_only"'
    for request in (chat("x", privacy="local_only"), TranscriptionRequest(privacy="local_only")):
        assert Privacy(RouterSettings()).keeps_local(request) == 'the request\'s privacy is "local_only"'


def test_patterns() -> None:
    privacy = Privacy(RouterSettings(private_patterns=[r"(?i)\bproject falcon\b", r"\bÖl\b", "Café$"]))
    assert privacy.keeps_local(chat("about Project Falcon")) == "private_patterns[0] matches"
    assert privacy.keeps_local(chat("viel Öl da")) == "private_patterns[1] matches"
    assert privacy.keeps_local(chat("Cafe\u0301")) == "private_patterns[2] matches"
    assert privacy.keeps_local(chat("a falcon")) is None
    parts = [{"type": "text", "text": "project fal"}, {"type": "text", "text": "con"}]
    assert privacy.keeps_local(chat(parts)) == "private_patterns[0] matches"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"q": "project\\u0020falcon"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert privacy.keeps_local(ChatCompletionRequest.model_validate({"messages": [message]})) == "private_patterns[0] matches"


def test_a_bad_pattern_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"router\.private_patterns\[1\] is wrong: it is no regular expression"):
        Privacy(RouterSettings(private_patterns=["a", "(b"]))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(a+)+$", "a" * 50_000 + "b"),
        (r"(a|aa)+$", "a" * 50_000 + "b"),
        (r"(\w+\s?)*$", "word " * 50_000 + "!"),
        (r"(.*a){20}b", "a" * 20_000),
        (r"\s+$", " " * 500_000 + "x"),
        (r"(?:a?){50}a{50}b", "a" * 500_000),
    ],
)
def test_a_pattern_that_takes_for_ever_keeps_the_request(pattern: str, text: str) -> None:
    started = time.monotonic()
    reason = Privacy(RouterSettings(private_patterns=[pattern])).keeps_local(chat(text))
    assert reason == "private_patterns[0] took too long to check"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "piece",
    ["a", "a.", "a@", "a.b@c.",
     "1", "1 ", "12-", "+1", "+1 ", "(1", "DE89", "DE89 ", "password: ", "a_", "sk-", "eyJaaaaaaaa.", '"',
     "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nAAAA\n", "://a:", "bearer ", "A1b/",
     "<EMAIL_1", "tel 0", "key_",
     "EMAIL", "\\", "0 1/", "4111 ", "tok-", "x" * 64 + "@"],
)  # fmt: skip
def test_long_hostile_text_takes_linear_time(piece: str) -> None:
    """Eight times the text may not take much more than eight times as long: quadratic time would be 64 times."""
    finder, costs = sensitive.Finder(ALL), []
    for size in (25_000, 200_000):
        text = (piece * (size // len(piece) + 1))[:size]
        started = time.process_time()
        finder.spans(text)
        costs.append(time.process_time() - started)
    assert costs[1] < 24 * costs[0] + 0.3


@pytest.mark.parametrize(("module", "kinds"), [("phonenumbers", ["phone"]), ("regex", [])])
def test_a_missing_package_is_said(module: str, kinds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    sensitive._library.cache_clear()
    with pytest.raises(MissingExtraError) as caught:
        Redactor(kinds) if kinds else Privacy(RouterSettings(private_patterns=["x"]))
    assert caught.value.extra == "privacy"
    Redactor(["email", "card", "iban", "key"])  # which need none
    Privacy(RouterSettings())


def test_random_tokens_are_found_and_words_are_not() -> None:
    rng, letters = random.Random(5), string.ascii_letters + string.digits
    tokens = ["".join(rng.choices(letters, k=40)) for _ in range(300)]
    assert sum("<KEY_" in redacted(f"x {token} y", ["key"]) for token in tokens) >= 294
    words = ["request", "response", "controller", "factory", "builder", "manager", "service", "handler", "client", "server"]
    names = ["".join(word.capitalize() for word in rng.choices(words, k=6)) + "V2" for _ in range(300)]
    assert not any("<KEY_" in redacted(f"x {name} y", ["key"]) for name in names)


# ---- the audit log -----------------------------------------------------------------------------------------------------

DECISION = RouteDecision(policy="local_first", route="cloud", confidence=0.3, threshold=0.5, reasons=["confidence too low"])
TO = [("https://user:pw@api.example.com:8443/v1?key=k", "big")]


def test_lines_of_a_request(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    request = chat([{"type": "text", "text": "SECRET-TEXT"}, {"type": "image_url", "image_url": {"url": "data:SECRET"}}])
    log.leaves("r1", request, DECISION, TO, bytes_sent=321, redacted={"email": 2})
    assert log.returned("r1", "ok", host=TO[0][0], model="big", attempts=2, bytes_sent=642, bytes_received=99, cost_usd=0.01)
    raw = log.path.read_text()
    assert all(word not in raw for word in ("SECRET", "pw", "key=k"))
    leaves, returned = audit.read(log.path)
    assert (leaves["event"], leaves["id"], leaves["what"], leaves["messages"], leaves["images"]) == (
        "leaves",
        "r1",
        "chat",
        1,
        1,
    )
    assert leaves["to"] == [{"host": "api.example.com:8443", "model": "big"}]
    assert (leaves["confidence"], leaves["threshold"], leaves["reasons"]) == (0.3, 0.5, ["confidence too low"])
    assert (leaves["bytes_sent"], leaves["redacted"]) == (321, {"email": 2})
    assert (returned["outcome"], returned["host"], returned["attempts"]) == ("ok", "api.example.com:8443", 2)
    assert returned["time"].endswith("Z") and returned["cost_usd"] == 0.01
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (CompletionRequest(prompt=["a", "b"]), {"what": "completion", "prompts": 2}),
        (EmbeddingRequest(input="a"), {"what": "embedding", "inputs": 1}),
        (TranscriptionRequest(), {"what": "transcription", "audio": 1}),
    ],
)
def test_what_left(tmp_path: Path, request_: Any, what: dict[str, Any]) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.leaves("r", request_, DECISION, TO, bytes_sent=1)
    assert what.items() <= next(audit.read(log.path)).items()


def test_torn_lines_are_passed_over_and_mended(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.path.write_bytes(b'{"event":"leaves","id":"a"}\nnonsense\n[1]\n{"event":"lea')
    assert [record["id"] for record in audit.read(log.path)] == ["a"]
    log.returned("b", "ok")
    assert [record["id"] for record in audit.read(log.path)] == ["a", "b"]


def test_a_full_disk_keeps_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.leaves("a", chat("x"), DECISION, TO, bytes_sent=1)
    before, write = log.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))  # as much as had room
    with pytest.raises(StoreError, match="No space left"):
        log.leaves("b", chat("x"), DECISION, TO, bytes_sent=1)
    assert log.path.read_bytes() == before

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        log.leaves("b", chat("x"), DECISION, TO, bytes_sent=1)
    assert log.returned("a", "ok") is False
    monkeypatch.undo()
    assert log.returned("a", "ok")
    assert [record["event"] for record in audit.read(log.path)] == ["leaves", "returned"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing" / "log", tmp_path, tmp_path / "pipe"):
        with pytest.raises(StoreError, match="cannot be written"):
            AuditLog(path).leaves("a", chat("x"), DECISION, TO, bytes_sent=1)
    with pytest.raises(StoreError, match="cannot be read"):
        list(audit.read(tmp_path / "missing"))


def test_rotation(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.returned("a", "ok")
    log.path.rename(tmp_path / "audit.jsonl.1")
    log.returned("b", "ok")
    log.path.unlink()
    log.returned("c", "ok")
    assert [record["id"] for record in audit.read(tmp_path / "audit.jsonl.1")] == ["a"]
    assert [record["id"] for record in audit.read(log.path)] == ["c"]


WRITER = """
import sys, threading
from cactus_py.routing.audit import AuditLog
def work(name, log):
    for i in range(100):
        assert log.returned(f"{name}-{i}", "ok", model="m" * 200)
log = AuditLog(sys.argv[1])
threads = [threading.Thread(target=work, args=(f"{sys.argv[2]}-{n}", log)) for n in range(3)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
"""


def test_threads_and_processes_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    ids = [record["id"] for record in audit.read(path)]
    assert len(ids) == len(set(ids)) == 900 == len(path.read_bytes().splitlines())
