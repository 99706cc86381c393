"""From what a request asks for to what answers it: names of models, pipelines, and the backend behind them."""

from __future__ import annotations

from .names import Names
from .router import Router

__all__ = ["Names", "Router"]
