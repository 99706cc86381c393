"""From what a request asks for to what answers it: names of models, pipelines, and the choice between device and cloud."""

from __future__ import annotations

from .hybrid import Hybrid
from .names import Names
from .router import Router

__all__ = ["Hybrid", "Names", "Router"]
