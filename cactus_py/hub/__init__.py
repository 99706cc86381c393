"""Models by name: a catalog of what there is, sources that hold the bytes, and a local store of what was pulled.

    path = resolve("smollm2")            the file of a model, pulled first if it is not here
    pull("smollm2", progress=callback)   the same, as an InstalledModel
    installed()                          what is in the store

Callbacks get (phase, bytes done, bytes in all or None): see files.ProgressCallback.
"""

from __future__ import annotations

from cactus_py.hub.catalog import Catalog, CatalogEntry, capabilities
from cactus_py.hub.files import ProgressCallback
from cactus_py.hub.pins import file_sha256, is_pin, known_sha256, split_pin
from cactus_py.hub.pulling import installed, pull, resolve
from cactus_py.hub.store import InstalledModel, Store, default_home, is_model_folder

__all__ = [
    "Catalog",
    "CatalogEntry",
    "InstalledModel",
    "ProgressCallback",
    "Store",
    "capabilities",
    "default_home",
    "file_sha256",
    "installed",
    "is_model_folder",
    "is_pin",
    "known_sha256",
    "pull",
    "resolve",
    "split_pin",
]
