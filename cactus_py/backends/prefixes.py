"""What a model has read of prompts, kept in a folder from one process to the next: a file per model, kind of keys and values.

A file is named by the hash of the model's file, and the engine refuses it unless it fits; what is damaged or foreign is
ignored, with a line in the log. A process that ends writes what it knows over what an earlier one did.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
from pathlib import Path

from .. import hub
from ..engine import Model
from ..errors import CactusError

__all__ = ["PrefixFile"]

_log = logging.getLogger(__name__)
_PART = re.compile(r"(.*)-00001-of-([0-9]{5})(\.gguf)", re.IGNORECASE)


class PrefixFile:
    """The file of one loaded model. Nothing here raises: without the file, prompts are read again."""

    def __init__(self, folder: Path, model: Model, path: Path, store: hub.Store) -> None:
        """path: of the model. Its hash is taken from the store where it is known, else computed."""
        self._model = model
        self._key = bytes.fromhex(_identity(path, store))
        self.path = folder / f"{self._key.hex()[:32]}-{model.info.kv_type}.prefixes"
        self._saving = threading.Lock()
        self._n_read = self._read()

    def _read(self) -> int:
        """Tokens that the engine has computed since the model was loaded: what is worth saving changes with them."""
        activity = self._model.activity()
        return activity.prompt_tokens - activity.cached_tokens + activity.generated_tokens

    def load(self) -> None:
        """Takes back what an earlier process saved."""
        if not self.path.is_file():
            return
        try:
            self._model.load_prefixes(self.path, self._key)
        except (CactusError, OSError) as error:
            _log.warning("the saved prefixes %s are not used: %s", self.path.name, error)

    def save(self) -> None:
        """Writes what is known now, if that is more than when it was written last."""
        with self._saving:
            draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
            try:
                n_read = self._read()
                if n_read == self._n_read:
                    return
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._model.save_prefixes(draft, self._key)
                os.replace(draft, self.path)
                self._n_read = n_read
            except (CactusError, OSError) as error:
                _log.warning("the prefixes %s cannot be saved: %s", self.path.name, error)
                with contextlib.suppress(OSError):
                    draft.unlink(missing_ok=True)


def _identity(path: Path, store: hub.Store) -> str:
    """SHA-256 of the model's file; of the hashes of all its files if it is split."""
    found = _PART.fullmatch(path.name)
    if found is None:
        return hub.file_sha256(path, store)
    n_parts = int(found[2])
    parts = [path.with_name(f"{found[1]}-{i:05}-of-{n_parts:05}{found[3]}") for i in range(1, n_parts + 1)]
    return hashlib.sha256("".join(hub.file_sha256(part, store) for part in parts).encode()).hexdigest()
