"""The live page: numbers of each target, and a text as it is generated."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
_PARTS = ("uplot.min.css", "page.css", "uplot.min.js", "page.js")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
"""The page loads nothing, and asks nobody but its own server."""


def page() -> str:
    """The page with all that it needs, as one HTML file."""
    html = (_FOLDER / "index.html").read_text(encoding="utf-8")
    for part in _PARTS:
        html = html.replace(f"{{{{{part}}}}}", (_FOLDER / part).read_text(encoding="utf-8"))
    return html
