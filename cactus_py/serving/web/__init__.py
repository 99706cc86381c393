"""The page at `/`: static files, a fixed table of them, and the headers they are sent with.

The page is plain ES modules without a build step. It asks nobody but the server that it came from, and holds no data itself,
so it needs no key; what it then asks for does where the server wants one.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["FILES", "HEADERS", "read"]

FILES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "audio.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "markdown.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Name to media type. index.html is for `/`, all of them are for `/web/NAME`."""

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "data: blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}

HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Sent with each of them: nothing from elsewhere, no inline script or style, no text made markup, no frame around it."""


def read(name: str) -> bytes:
    """The file `name` of FILES. Raises KeyError for any other name: no path is ever made of what a request says."""
    FILES[name]
    return (Path(__file__).parent / name).read_bytes()
