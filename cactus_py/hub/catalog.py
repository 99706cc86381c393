"""The catalog: which models there are, what their bytes must be, and where those can be had.

One TOML file per model. The package brings its own (`models/` in the source tree, `cactus_py/hub/models` when installed);
files in `$CACTUS_PY_HOME/catalog/` are read after them, so that a user or a company can add models and sources, or replace
an entry or an alias (`default` among them) by one of the same name.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cactus_py.errors import ConfigError, UnknownModelError
from cactus_py.hub.files import digest_of_listing
from cactus_py.hub.sources import parse_source, redact

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME_PATTERN = r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?"
FILE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,190}"
INPUT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}"
_NAME = re.compile(NAME_PATTERN)


def _checked_source(spec: str) -> str:
    parse_source(spec + "config.json" if spec.endswith("/") else spec)  # a folder is a source with the name of a file
    return spec


Name = Annotated[str, Field(pattern=f"^(?:{NAME_PATTERN})$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SizeBytes = Annotated[int, Field(gt=0, lt=1 << 50, strict=True)]
SourceSpec = Annotated[str, AfterValidator(_checked_source)]


class Part(BaseModel):
    """One piece of a file that no single source holds whole. Pieces are joined in the order of the catalog."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    size_bytes: SizeBytes
    sha256: Sha256 | None = None  # the joined file's hash decides in any case


class Input(BaseModel):
    """A file of a checkpoint that a model is converted from, or of a folder that a model is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=rf"^(?:{INPUT_PATTERN})$", max_length=190)  # its path in the folder
    size_bytes: SizeBytes
    sha256: Sha256


class CatalogEntry(BaseModel):
    """One model that this engine runs. `size_bytes` and `sha256` are those of the file in the store.

    With format "safetensors" the sources are folders (they end in "/") that hold the `inputs`; the file is made of these, with
    matrices of the type that `quantisation` names. A conversion gives the same bytes everywhere, so the hash holds for it too.

    With format "ctranslate2" the sources are folders too, and what is installed is a folder called `file` that holds the
    `inputs` as they are; `size_bytes` is their sum, `sha256` that of their listing (see files.digest_of_listing).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    aliases: tuple[Name, ...] = ()
    description: str = Field(min_length=1)
    licence: str = Field(min_length=1)  # an SPDX identifier where there is one
    parameters: int = Field(gt=0, strict=True)
    quantisation: str = Field(min_length=1)
    context: int = Field(gt=0, strict=True)  # tokens
    architecture: str = Field(min_length=1)
    file: str = Field(pattern=f"^(?:{FILE_PATTERN})$")
    size_bytes: SizeBytes
    sha256: Sha256
    format: Literal["gguf", "safetensors", "ctranslate2"] = "gguf"  # of what the sources hold
    sources: tuple[SourceSpec, ...] = ()  # each holds the whole file, or all inputs; tried in this order
    inputs: tuple[Input, ...] = ()
    parts: tuple[Part, ...] = ()  # tried after the sources

    @model_validator(mode="after")
    def _has_a_way_to_be_had(self) -> CatalogEntry:
        if not self.sources and not self.parts:
            raise ValueError("neither sources nor parts are given")
        if self.parts and sum(part.size_bytes for part in self.parts) != self.size_bytes:
            raise ValueError("the sizes of the parts do not add up to size_bytes")
        converts, is_folder = self.format == "safetensors", self.format == "ctranslate2"
        if (converts or is_folder) != bool(self.inputs) or (self.inputs and self.parts):
            raise ValueError("inputs, and no parts, belong to the formats safetensors and ctranslate2")
        if self.file.endswith(".gguf") == is_folder:
            raise ValueError("file must end in '.gguf', and with the format ctranslate2 it must not")
        if is_folder and sum(item.size_bytes for item in self.inputs) != self.size_bytes:
            raise ValueError("the sizes of the inputs do not add up to size_bytes")
        if is_folder and digest_of_listing({item.file: item.sha256 for item in self.inputs}) != self.sha256:
            raise ValueError("sha256 is not that of the inputs' listing")
        if len({item.file for item in self.inputs}) != len(self.inputs):
            raise ValueError("an input is listed twice")
        if converts and self.quantisation.lower() not in ("f32", "f16", "bf16", "q8_0"):
            raise ValueError(f"quantisation {self.quantisation!r} is not a type that a conversion makes")
        for spec in self.sources:
            if spec.endswith("/") != bool(self.inputs):
                raise ValueError(f"source {spec!r} must {'' if self.inputs else 'not '}end in '/'")
        return self

    @property
    def transcribes(self) -> bool:
        """Whether it turns speech into text."""
        return self.architecture == "whisper"


class Catalog:
    """Entries by name and alias. Immutable once loaded."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        """A later entry replaces an earlier one of its name, and takes over its own aliases from all of them."""
        self._entries: dict[str, CatalogEntry] = {}
        for entry in entries:
            self._entries.pop(entry.name, None)  # so that aliases of the later one win below
            self._entries[entry.name] = entry
        self._aliases = {alias: entry.name for entry in self._entries.values() for alias in entry.aliases}

    @classmethod
    def load(cls, home: Path | None = None) -> Catalog:
        """The built-in entries and those in `home`/catalog. Raises ConfigError, naming the file that is wrong."""
        entries = _read_folder(builtin_folder())
        if home is not None:
            entries += _read_folder(home / "catalog")
        return cls(entries)

    def get(self, name: str) -> CatalogEntry | None:
        """The entry of this name or alias, whatever its case; None if there is none."""
        key = name.lower()
        return self._entries.get(key) or self._entries.get(self._aliases.get(key, ""))

    def find(self, name: str, also: Iterable[str] = ()) -> CatalogEntry:
        """As `get`, but raises UnknownModelError with the nearest names (`also`: further names to suggest)."""
        entry = self.get(name)
        if entry is None:
            raise unknown_model(name, [*self._entries, *self._aliases, *also])
        return entry

    def names(self) -> list[str]:
        return sorted(self._entries)

    def aliases_of(self, entry: CatalogEntry) -> list[str]:
        """The aliases that lead to this entry: without those that another entry took over."""
        return [alias for alias in entry.aliases if self._aliases[alias] == entry.name and alias not in self._entries]

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self._entries[name] for name in self.names())

    def __len__(self) -> int:
        return len(self._entries)


def capabilities(architecture: str | None) -> list[str]:
    """What a model of an architecture can be asked for; nothing where that is not known."""
    if architecture is None:
        return []
    if "whisper" in architecture:
        return ["transcription"]
    if "bert" in architecture:
        return ["embeddings"]
    return ["chat", "completions"]


def is_name(text: str) -> bool:
    """Whether the text can be the name of a model, and with that of a folder of the store."""
    return _NAME.fullmatch(text) is not None


def unknown_model(name: str, known: Iterable[str]) -> UnknownModelError:
    """The error for a name that nothing answers to, with what the user may have meant."""
    nearest = tuple(difflib.get_close_matches(name.lower(), sorted(set(known)), n=3, cutoff=0.5))
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see `cactus-py list` for what there is."
    message = f"There is no model called {name!r} in the catalog or the store, and no such file; {hint}"
    return UnknownModelError(message, name=name, suggestions=nearest)


def builtin_folder() -> Path:
    """The folder of the entries that come with the package, in an installed wheel or in a source checkout."""
    here = Path(__file__).resolve()
    installed = here.parent / "models"
    return installed if installed.is_dir() else here.parents[2] / "models"


def _read_folder(folder: Path) -> list[CatalogEntry]:
    """All *.toml of a folder, by file name; a folder that does not exist is empty."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"The catalog folder {folder} cannot be read: {error.strerror}.") from error
    return [_read_entry(path) for path in paths]


def _read_entry(path: Path) -> CatalogEntry:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return CatalogEntry.model_validate(values)
    except OSError as error:
        raise ConfigError(f"The catalog file {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the entry"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"The catalog file {path} is not valid: {where}: {redact(first['msg'])}{more}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The catalog file {path} is not valid TOML: {error}.") from error
