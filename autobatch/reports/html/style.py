"""The style sheets of the HTML report and of the notebook's fragment. They fetch nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

# Each colour by its purpose. Words have a contrast of at least 4.5 to their background, lines and dots of at
# least 3 (WCAG 2.2, AA); a test computes it. `s0` to `s5` are the lines of the short trainings.
LIGHT = {
    "page": "#f6f6f3",
    "card": "#ffffff",
    "ink": "#1b1e23",
    "soft": "#5a616b",
    "rule": "#e2e3e0",
    "accent": "#0a6b4d",
    "tint": "#e9f4ef",
    "warn": "#7d4e00",
    "warn-tint": "#fdf4e1",
    "bad": "#b3261e",
    "code": "#f4f4f1",
    "line": "#5f8f80",
    "s0": "#0a6b4d",
    "s1": "#2f6db5",
    "s2": "#a8571b",
    "s3": "#7b4fa3",
    "s4": "#a33a5f",
    "s5": "#5a616b",
}
DARK = {
    "page": "#121417",
    "card": "#1a1d22",
    "ink": "#e7e9ec",
    "soft": "#a1a9b5",
    "rule": "#2e333b",
    "accent": "#62d2a8",
    "tint": "#17302a",
    "warn": "#f0c674",
    "warn-tint": "#2f2714",
    "bad": "#ff8f85",
    "code": "#14171b",
    "line": "#5b9c87",
    "s0": "#62d2a8",
    "s1": "#7fb4f5",
    "s2": "#e8a26b",
    "s3": "#c3a1ea",
    "s4": "#f08fb0",
    "s5": "#a1a9b5",
}

_FONTS = {
    "sans": 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif',
    "mono": 'ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace',
}


@cache
def page() -> str:
    """Return the style sheet of the report."""
    return "\n".join(
        (
            f":root {{ color-scheme: light dark; {_variables(LIGHT)}; {_variables(_FONTS)} }}",
            # On a screen only: paper is light.
            f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}",
            _read("chart.css"),
            _read("page.css"),
        )
    )


@cache
def notebook() -> str:
    """Return the style sheet of the fragment that a notebook shows.

    Every selector begins with the fragment's class. Colours are the notebook's, since its theme isn't the
    system's.
    """
    return f"\n{_read('notebook.css')}\n"


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _variables(colours: Mapping[str, str]) -> str:
    return "; ".join(f"--{name}: {value}" for name, value in colours.items())
