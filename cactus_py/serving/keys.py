"""API keys. The server keeps only hashes: whoever reads the configuration cannot call it."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError

__all__ = ["Keys", "hash_of", "new_key", "read_hashes"]

_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def new_key() -> tuple[str, str]:
    """A new key of 256 random bits, and its hash for the configuration."""
    key = f"sk-cactus-{secrets.token_urlsafe(32)}"
    return key, hash_of(key)


def hash_of(key: str) -> str:
    """What is kept of a key. A plain hash will do: keys are random, there is nothing to guess."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_hashes(path: Path) -> list[str]:
    """The hashes in a file, one a line; # begins a remark. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"the key file {path} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text and _HASH.fullmatch(text) is None:
            raise ConfigError(
                f'line {number} of the key file {path} is no hash ("sha256:" and 64 hexadecimal digits); '
                "`cactus-py serve --new-key` prints a key and its hash"
            )
        if text:
            found.append(text)
    if not found:
        raise ConfigError(f"the key file {path} holds no hash; `cactus-py serve --new-key` prints a key and its hash")
    return found


class Keys:
    """The keys that are accepted; an empty set accepts everybody."""

    def __init__(self, hashes: Iterable[str]) -> None:
        self._digests = [bytes.fromhex(text.removeprefix("sha256:")) for text in hashes]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, key: bytes) -> bool:
        """Whether this is one of them, in a time that does not depend on how much of it is right."""
        digest = hashlib.sha256(key).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found
