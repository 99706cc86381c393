"""Settings: from a file, the environment and arguments; each is stronger than the one before.

The file is $CACTUS_PY_CONFIG, or config.toml in the home folder ($CACTUS_PY_HOME, or the platform's place for data). It is
TOML, with the fields of `Settings` as keys. In the environment a field is CACTUS_PY_ and its name in capitals, but for the two
that the whole world shares, OPENAI_API_KEY and OPENAI_BASE_URL. An empty variable counts as absent; tables are JSON there. What
concerns the server is the table [serve], the router [router], the cloud [cloud]; in the environment the fields of these begin
with CACTUS_PY_SERVE_, CACTUS_PY_ROUTER_ and CACTUS_PY_CLOUD_, and lists are separated by commas (endpoints and patterns are
JSON).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DEFAULT_EMBEDDING_MODEL",
    "DEFAULT_MODEL",
    "DEFAULT_TRANSCRIPTION_MODEL",
    "Cloud",
    "Endpoint",
    "PipelineSettings",
    "Price",
    "RouterSettings",
    "Serve",
    "Settings",
    "StepSettings",
    "load_settings",
]

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_TRANSCRIPTION_MODEL = "whisper-tiny.en"
DEFAULT_EMBEDDING_MODEL = "all-minilm-l6-v2"
_PREFIX = "CACTUS_PY_"
_CONFIG = "CACTUS_PY_CONFIG"


_UNITS = {"": 1, "b": 1, **{p + u: n**e for e, p in enumerate("kmgt", 1) for u, n in (("", 1000), ("b", 1000), ("ib", 1024))}}


def _bytes(value: Any) -> Any:
    """A number of bytes, or a text such as "1.5 GB" (10^9) or "512MiB" (2^20)."""
    if isinstance(value, bool):
        raise ValueError("it should be a size such as 300000000 or 300MB")
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", value.lower())
        if found is None or found[2] not in _UNITS or len(found[1]) > 30:
            raise ValueError("it should be a size such as 300000000, 300MB or 2GiB")
        return int(float(found[1]) * _UNITS[found[2]])
    return value


def _alias(value: Any) -> str | dict[str, float]:
    """What a name stands for: another one, or several with their weights."""
    if isinstance(value, str):
        return _name(value)
    if not isinstance(value, dict) or not value:
        raise ValueError("an alias stands for a model's name, or for a table of names and weights")
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"the weight of {name} should be a number")
    return {_name(name): float(weight) for name, weight in value.items()}


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 4096 or "\0" in value:
        raise ValueError("the name of a model is a text that is not empty")
    return value


Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0, lt=1 << 63)]
ModelName = Annotated[str, BeforeValidator(_name)]
Alias = Annotated[str | dict[str, float], PlainValidator(_alias)]


class StepSettings(BaseModel):
    """One step of a pipeline. A text is short for {model = the text}."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    model: ModelName
    task: Literal["chat", "transcribe"] | None = None
    """What the model does; None: what it is known for."""
    system: str | None = None
    """Instructions in front of the conversation of a chat step."""
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    """Longest answer of a chat step that is not the last; None: until its end. The last one obeys the request."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of a chat step; None: the request's."""
    language: str | None = None
    """What is spoken, for a transcribe step; None: found by the model."""

    @model_validator(mode="before")
    @classmethod
    def _a_text_is_a_model(cls, value: Any) -> Any:
        if not isinstance(value, (str, Mapping, StepSettings)):
            raise ValueError("a step is a model's name, or a table with one")
        return {"model": value} if isinstance(value, str) else value


class PipelineSettings(BaseModel):
    """Models that work one after the other."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    steps: Annotated[list[StepSettings], Field(min_length=1, max_length=16)]


class Price(BaseModel):
    """What a cloud charges, in US dollars per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    input: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cached_input: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """For tokens of a prompt that the cloud had read before; None: as any."""
    output: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Endpoint(BaseModel):
    """A place that speaks OpenAI's protocol, and the model to ask for there."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    base_url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] = "https://api.openai.com/v1"
    model: ModelName
    embedding_model: ModelName | None = None
    transcription_model: ModelName | None = None
    api_key: SecretStr | None = None
    """Better elsewhere: in `api_key_env` or `keyring`."""
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    """The variable of the environment that holds the key. An endpoint that names no key gets OPENAI_API_KEY if it is OpenAI's
    own or that of OPENAI_BASE_URL, and none otherwise."""
    keyring: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")] | None = None
    """"service/user": where the system's keyring has the key (package keyring)."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of each request."""
    ca_file: Path | None = None
    """Certificates to trust, besides those that httpx brings."""
    price: Price | None = None
    """None: that of the table of known prices, if the model is in it."""


class Cloud(BaseModel):
    """The cloud: endpoints, tried in this order, and how patiently. Without an endpoint nothing ever leaves the device."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    endpoints: Annotated[list[Endpoint], Field(max_length=16)] = Field(default_factory=list)
    connect_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    first_token_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Longest wait for the first piece of an answer, and between two of them."""
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 120.0
    """Longest time for a whole answer, attempts that failed included."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Attempts after the first one, at each endpoint, where trying again may help."""
    max_parallel: Annotated[int, Field(ge=1, le=1024)] = 8
    """Requests under way at each endpoint."""
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = 3
    """Failures in a row after which an endpoint is left alone for a while."""
    breaker_s: Annotated[float, Field(gt=0, le=86400)] = 30.0
    """How long; then one request tries whether it is back."""


class RouterSettings(BaseModel):
    """Which answers are made on the device, and which in the cloud (`cactus_py.routing.policies`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    policy: Literal["local_only", "cloud_only", "local_first", "predictive", "early_exit"] = "local_first"
    """How requests with route="auto" are decided, once there is a cloud."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Answers of less confidence are handed over; None: found from the targets below, or 0.5 without any."""
    max_cloud_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of all requests, the part that may be handed over."""
    min_quality: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of the answers made on the device, the part that should be right."""
    max_cost_per_day: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """US dollars that may be spent from midnight to midnight, UTC."""
    handoff: Literal["auto", "restart", "continue"] = "auto"
    """What early_exit does with the text that came before it hands over: restart replaces it, continue keeps it as the
    beginning; auto: restart for whole replies, continue for streams."""
    strain: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What the threshold rises by while the device is strained: an empty battery, a high load, little free memory."""
    states: bool = False
    """Whether the confidence also looks at hidden states, where the model's calibration has a head for them."""
    privacy: Literal["local_only"] | None = None
    """local_only: no request leaves the device, whatever it asks for."""
    private_patterns: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field(default_factory=list)
    """Regular expressions; a request with a match anywhere in its text stays on the device."""
    redact: list[Literal["email", "phone", "card", "iban", "key"]] = Field(default_factory=list)
    """What is replaced by placeholders before a request leaves, and put back into the answer."""
    audit_log: Path | None = None
    """A file that gets a line of JSON for everything that leaves the device: when, why, where to, how many bytes."""


class Serve(BaseModel):
    """What `cactus-py serve` can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address to listen on. Any but this machine's own (127.0.0.1, ::1, localhost) demands an API key."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0: any that is free."""
    models: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Models to load at the start, the first of them for requests that name none; empty: the setting `model`."""
    api_keys: list[Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = Field(default_factory=list)
    """Hashes of the keys that requests may carry ("sha256:" and 64 hexadecimal digits, as `serve --new-key` prints them). With
    none, requests need no key."""
    cors_origins: list[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]] = Field(default_factory=list)
    """Web pages of these origins may call the server ("https://example.com"; "*": of all); empty: of none but its own."""
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 600.0
    """Longest time for one request, loading its model not counted."""
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long requests that run may go on when the server is told to stop."""
    max_body: Annotated[Bytes, Field(ge=1024)] = 32 << 20
    """Largest body of a request."""
    head_timeout_s: Annotated[float, Field(gt=0, le=86400)] = 15.0
    """Longest time for the head of a request to arrive."""
    stall_timeout_s: Annotated[float, Field(gt=0, le=86400)] = 60.0
    """How long a client may take nothing of its answer, once the buffers between are full, before it counts as gone."""
    log: bool = True
    """Whether each request is logged: one line of JSON on standard error. Those for figures and for the page are not, but for
    failures."""
    log_prompts: bool = False
    """Whether those lines hold what was asked."""


class Settings(BaseSettings):
    """Everything that can be set from outside the program."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    home: Path | None = None
    """Where models and caches live; None: the platform's place."""
    model: Annotated[str, Field(min_length=1)] = DEFAULT_MODEL
    """The model that answers where a request names none: a name of the catalog or a path."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads of the engine; None: the CPUs this process may use."""
    context: Annotated[int, Field(ge=1)] | None = None
    """Longest sequence in tokens; None: what the model was trained for."""
    kv_type: Literal["auto", "f16", "f32", "i8"] = "auto"
    """How keys and values are kept; auto: f16, or f32 for float weights; i8: 8 bits, about half of f16."""
    kernels: Annotated[str, Field(min_length=1)] | None = None
    """Name of a kernel set; None: the best for this CPU."""
    speculation: Annotated[int, Field(ge=0, le=16)] = 16
    """Most tokens drafted per step from what an answer repeats; 0: off. The answer is the same, it only comes sooner."""
    backend: Annotated[str, Field(min_length=1)] = "auto"
    """What runs local models: auto (our engine, and llama.cpp for the files that it does not run), native, llama_cpp, or the
    name of another entry point in the group cactus_py.backends."""
    transcription_model: Annotated[str, Field(min_length=1)] = DEFAULT_TRANSCRIPTION_MODEL
    """The model that writes down speech where a request names none: a name of the catalog or a folder."""
    embedding_model: Annotated[str, Field(min_length=1)] = DEFAULT_EMBEDDING_MODEL
    """The model that makes embeddings where a request names none and the client's own one generates text."""
    max_audio_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600
    """Longest audio of a request, in seconds: each takes about 200 kB of memory."""
    kv_memory: Bytes | None = None
    """Most memory of a model for keys and values, as 300000000 or "300MB"; None: enough for one full context."""
    memory_limit: Bytes | None = None
    """Most private memory of all loaded models together (scratch space, and the most that keys and values may take). To stay
    within it the one that was used least recently is unloaded; one in use never is. None: no limit."""
    memory_counts_files: bool = False
    """Whether memory_limit also counts the models' files, which are mapped: shared, and given up under pressure."""
    idle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """A model that nobody used for so long is unloaded; 0: never."""
    prefix_cache: Path | None = None
    """A folder that keeps what was read of prompts, from one process to the next; None: it is forgotten."""
    max_queue: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    """Requests of a model that may wait for their turn; more are refused. None: as many as there are."""
    aliases: dict[ModelName, Alias] = Field(default_factory=dict)
    """Names for models: another name, or several with their weights (`cactus_py.routing.names`)."""
    pipelines: dict[ModelName, PipelineSettings] = Field(default_factory=dict)
    """Models one after the other, as one model (`cactus_py.routing.pipeline`)."""
    openai_api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("openai_api_key", "OPENAI_API_KEY"))
    """The key for the cloud endpoint. Never printed."""
    openai_base_url: str | None = Field(None, validation_alias=AliasChoices("openai_base_url", "OPENAI_BASE_URL"))
    """Where the cloud endpoint is; None: OpenAI's own."""
    cloud_model: str | None = None
    """The model to ask for there. Setting it is what configures a cloud, short for an endpoint in `cloud`."""
    cloud: Cloud = Field(default_factory=Cloud)
    """The cloud in full."""
    router: RouterSettings = Field(default_factory=RouterSettings)
    """How requests are divided between device and cloud."""
    serve: Serve = Field(default_factory=Serve)
    """The server."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        home = init_settings().get("home")
        return init_settings, _TableSource(settings_cls), env_settings, _FileSource(settings_cls, home)


_TABLES: dict[str, type[BaseModel]] = {"serve": Serve, "router": RouterSettings, "cloud": Cloud}


class _TableSource(PydanticBaseSettingsSource):
    """The environment's variables for the fields of tables."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # all fields come at once, in __call__

    def __call__(self) -> dict[str, Any]:
        found = {table: self._fields(table, model) for table, model in _TABLES.items()}
        return {table: values for table, values in found.items() if values}

    @staticmethod
    def _fields(table: str, model: type[BaseModel]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, field in model.model_fields.items():
            variable = f"{_PREFIX}{table}_{name}".upper()
            text = os.environ.get(variable)
            if not text:
                continue
            if name in ("endpoints", "private_patterns"):  # which may hold commas
                try:
                    values[name] = json.loads(text)
                except ValueError:
                    raise ConfigError(f"the setting {variable} is wrong: it should be JSON") from None
            else:
                is_list = get_origin(field.rebuild_annotation()) is list
                values[name] = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
        return values


class _FileSource(PydanticBaseSettingsSource):
    """The values of the configuration file, if there is one."""

    def __init__(self, settings_cls: type[BaseSettings], home: Any) -> None:
        super().__init__(settings_cls)
        self._home = home

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # all fields come at once, in __call__

    def __call__(self) -> dict[str, Any]:
        values = _read(self._home)
        if "home" in values:
            raise ConfigError("the configuration file sets home, but lies in it; set CACTUS_PY_HOME instead")
        return values


def load_settings(arguments: Mapping[str, Any] | None = None) -> Settings:
    """Settings from all places; arguments that are None say nothing.

    Raises ConfigError, with the name of the variable, argument or file that is wrong.
    """
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    try:
        return Settings(**given)
    except SettingsError as error:  # a table in the environment that is no JSON
        field = re.search(r'field "(\w+)"', str(error))
        name = _PREFIX + field[1].upper() if field else "a variable"
        raise ConfigError(f"the setting {name} is wrong: it should be JSON") from None
    except ValidationError as error:
        raise _explained(error, given) from None


def changed(settings: Settings, arguments: Mapping[str, Any]) -> Settings:
    """A copy with other values, checked as `load_settings` checks them."""
    try:
        checked = {
            name: TypeAdapter(Settings.model_fields[name].rebuild_annotation()).validate_python(value)
            for name, value in arguments.items()
        }
    except ValidationError:
        load_settings(arguments)  # which names the value
        raise
    return settings.model_copy(update=checked)


def _explained(error: ValidationError, given: Mapping[str, Any]) -> ConfigError:
    """One sentence about the first value that is wrong."""
    problems = error.errors(include_url=False, include_input=False)
    problem = min(problems, key=lambda item: item["type"] != "extra_forbidden")  # often a misspelling of what is missing
    location = problem["loc"]
    name = str(location[0]) if location else ""
    field = name.lower()
    if problem["type"] == "extra_forbidden" and len(location) == 1:
        return ConfigError(f'there is no setting "{name}"; there are: {", ".join(Settings.model_fields)}')
    message = problem["msg"].removeprefix("Value error, ").replace("Field required", "it is missing")
    message = re.sub(r"^(Input|List|String) should", "it should", message)
    if problem["type"] == "extra_forbidden":
        message = "there is no such field"
    keys = [step for step in location[1:] if step != "[key]"]
    inside = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in keys)
    return ConfigError(f"the setting {_where(field, given, inside)} is wrong: {message}")


def _where(field: str, given: Mapping[str, Any], inside: str = "") -> str:
    """The place a value came from, in the words of a user."""
    if field in given:
        return f"{field}{inside}" if inside else f"{field}="
    variable = field.upper() if field.startswith("openai_") else _PREFIX + field.upper()
    if field in _TABLES and inside.startswith("."):  # fields of these tables have variables of their own
        variable, inside = f"{variable}_{inside[1:].upper()}", ""
    if os.environ.get(variable):
        return f"{variable}{inside}"
    return f"{field}{inside} in the configuration file"


def _read(home: Any) -> dict[str, Any]:
    named = os.environ.get(_CONFIG)
    try:
        path = Path(named).expanduser() if named else _home_folder(home) / "config.toml"
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise ConfigError(f"the configuration file {named}, named by {_CONFIG}, does not exist") from None
        return {}
    except NotADirectoryError:
        return {}
    except (OSError, RuntimeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"the configuration file {named or 'config.toml'} cannot be read: {error}") from None
    try:
        values: dict[str, Any] = tomllib.loads(text)
        return values
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from None


def _home_folder(home: Any) -> Path:
    if home is not None:
        return Path(home).expanduser()
    from .hub.store import default_home

    return default_home()
