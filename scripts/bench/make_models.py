"""Makes a model in other formats, so that every kind of weights can be timed on one model.

    PEER_PYTHON scripts/bench/make_models.py MODEL.gguf FOLDER [--formats Q8_0 Q4_0 …]

Run by a Python with llama-cpp-python, whose quantiser does the work. Writes FOLDER/NAME.FORMAT.gguf and prints each path; NAME
is the model's, without a format of its own. Weights that are quantised already lose a little more: fit for timing, not for
judging quality. Rows that a format cannot hold (K-quants want a multiple of 256 columns) get another one, as llama.cpp chooses.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path
from typing import Any

import llama_cpp as lc  # type: ignore[import-not-found,unused-ignore]
from formats import FORMATS, path_of

ERROR = 4  # GGML_LOG_LEVEL_ERROR, which the binding does not name


def _errors_only(level: int, text: bytes, _user: Any) -> None:
    """llama.cpp reports every tensor."""
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


_LOG = lc.llama_log_callback(_errors_only)


def make(source: Path, out: Path, name: str, threads: int) -> None:
    """Writes `out` under a name of its own first, so that a file of that name is whole. Raises RuntimeError when it fails."""
    params = lc.llama_model_quantize_default_params()
    params.ftype = getattr(lc, f"LLAMA_FTYPE_MOSTLY_{name}")
    params.allow_requantize = True
    params.nthread = threads
    unfinished = out.with_suffix(".part")
    status = lc.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(params))
    if status != 0:
        unfinished.unlink(missing_ok=True)
        raise RuntimeError(f"llama.cpp cannot make {name} of {source} (status {status})")
    unfinished.replace(out)


def main() -> None:
    """Makes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    lc.llama_log_set(_LOG, ctypes.c_void_p(0))
    lc.llama_backend_init()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.formats:
        out = path_of(args.model, args.folder, name)
        try:
            make(args.model, out, name, args.threads)
        except RuntimeError as error:
            raise SystemExit(f"error: {error}") from error
        print(out, flush=True)


if __name__ == "__main__":
    main()
