"""`python -m cactus_py`: the `cactus-py` command where it is not on the path."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
