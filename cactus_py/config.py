"""Settings: from a file, the environment and arguments; each is stronger than the one before.

The file is $CACTUS_PY_CONFIG, or config.toml in the home folder ($CACTUS_PY_HOME, or the platform's place for data). It is
TOML, with the fields of `Settings` as keys. In the environment a field is CACTUS_PY_ and its name in capitals, but for the two
that the whole world shares, OPENAI_API_KEY and OPENAI_BASE_URL. An empty variable counts as absent. What concerns the server is
the table [serve]; in the environment its fields begin with CACTUS_PY_SERVE_, and lists are separated by commas.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DEFAULT_MODEL", "Serve", "Settings", "load_settings"]

DEFAULT_MODEL = "smollm2-135m-instruct"
_PREFIX = "CACTUS_PY_"
_CONFIG = "CACTUS_PY_CONFIG"


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
    max_body_bytes: Annotated[int, Field(ge=1024, le=2**40)] = 32 << 20
    """Largest body of a request."""
    log: bool = True
    """Whether each request is logged: one line of JSON on standard error."""
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
    openai_api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("openai_api_key", "OPENAI_API_KEY"))
    """The key for the cloud endpoint. Never printed."""
    openai_base_url: str | None = Field(None, validation_alias=AliasChoices("openai_base_url", "OPENAI_BASE_URL"))
    """Where the cloud endpoint is; None: OpenAI's own."""
    cloud_model: str | None = None
    """The model to ask for there."""
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
        return init_settings, _ServeSource(settings_cls), env_settings, _FileSource(settings_cls, home)


class _ServeSource(PydanticBaseSettingsSource):
    """The environment's variables for the table [serve]."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # all fields come at once, in __call__

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, field in Serve.model_fields.items():
            text = os.environ.get(_PREFIX + "SERVE_" + name.upper())
            if text:
                is_list = get_origin(field.annotation) is list
                values[name] = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
        return {"serve": values} if values else {}


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
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in problem["loc"][:2] if isinstance(part, str))
        field = name.lower()
        if problem["type"] == "extra_forbidden":
            known = Serve.model_fields if "." in name else Settings.model_fields
            raise ConfigError(f'there is no setting "{name}"; there are: {", ".join(known)}') from None
        message = problem["msg"].replace("Input should", "it should", 1)
        raise ConfigError(f"the setting {_where(field, given)} is wrong: {message}") from None


def _where(field: str, given: Mapping[str, Any]) -> str:
    """The place a value came from, in the words of a user."""
    table, _, key = field.rpartition(".")
    if key in given[table] if isinstance(given.get(table), Mapping) else field in given:
        return f"{field}="
    variable = field.upper() if field.startswith("openai_") else _PREFIX + field.upper().replace(".", "_")
    if os.environ.get(variable):
        return variable
    return f"{field} in the configuration file"


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
