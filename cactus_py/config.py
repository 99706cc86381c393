"""Settings: from a file, the environment and arguments; each is stronger than the one before.

The file is $CACTUS_PY_CONFIG, or config.toml in the home folder ($CACTUS_PY_HOME, or the platform's place for data). It is
TOML, with the fields of `Settings` as keys. In the environment a field is CACTUS_PY_ and its name in capitals, but for the two
that the whole world shares, OPENAI_API_KEY and OPENAI_BASE_URL. An empty variable counts as absent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DEFAULT_EMBEDDING_MODEL", "DEFAULT_MODEL", "DEFAULT_TRANSCRIPTION_MODEL", "Settings", "load_settings"]

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_TRANSCRIPTION_MODEL = "whisper-tiny.en"
DEFAULT_EMBEDDING_MODEL = "all-minilm-l6-v2"
_PREFIX = "CACTUS_PY_"
_CONFIG = "CACTUS_PY_CONFIG"


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
    openai_api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("openai_api_key", "OPENAI_API_KEY"))
    """The key for the cloud endpoint. Never printed."""
    openai_base_url: str | None = Field(None, validation_alias=AliasChoices("openai_base_url", "OPENAI_BASE_URL"))
    """Where the cloud endpoint is; None: OpenAI's own."""
    cloud_model: str | None = None
    """The model to ask for there."""

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
        return init_settings, env_settings, _FileSource(settings_cls, home)


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
        name = str(problem["loc"][0]) if problem["loc"] else ""
        field = name.lower()
        if problem["type"] == "extra_forbidden":
            raise ConfigError(f'there is no setting "{name}"; there are: {", ".join(Settings.model_fields)}') from None
        message = problem["msg"].replace("Input should", "it should", 1)
        raise ConfigError(f"the setting {_where(field, given)} is wrong: {message}") from None


def _where(field: str, given: Mapping[str, Any]) -> str:
    """The place a value came from, in the words of a user."""
    if field in given:
        return f"{field}="
    variable = field.upper() if field.startswith("openai_") else _PREFIX + field.upper()
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
