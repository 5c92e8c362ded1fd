"""HTML and SVG made of elements: text is escaped when it becomes part of one, so none can be forgotten."""

from __future__ import annotations

from markupsafe import Markup, escape

from autobatch.records.escaping import printable

__all__ = ["Markup", "element", "join"]

# Elements that HTML closes by themselves.
_VOID = ("meta", "wbr")


def element(name: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """Build `<name attributes>children</name>`; a child or an attribute that is None is left out.

    A child of type Markup stays as it is, any other string is text. An attribute is written `class_` where
    Python reserves the word, `stroke_width` for `stroke-width`.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(_written(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*children: str | None) -> Markup:
    """Put the children one after the other, with text among them escaped."""
    return Markup("").join(
        child if isinstance(child, Markup) else _escaped(child) for child in children if child is not None
    )


def _escaped(text: str) -> Markup:
    """Escape `text`, line by line: nothing in it is markup, or steers or reorders its surroundings."""
    return escape("\n".join(map(printable, text.split("\n"))))


def _written(value: str | float) -> str:
    """Write a figure with as many places as a pixel needs."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
