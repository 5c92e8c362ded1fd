"""HTML and SVG made of elements: text is escaped when it becomes part of one, so none can be forgotten."""

from __future__ import annotations

from html import escape

from autobatch.records.escaping import printable

# Elements that HTML closes by themselves.
_VOID = ("meta", "wbr")


class Markup(str):
    """Text that is markup already. Any other string is text, and escaped where it becomes part of markup."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """`<name attributes>children</name>`; a child or an attribute that is None is left out.

    An attribute is written `class_` where Python has the word for itself, `stroke_width` for `stroke-width`.
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
    """The children one after the other, with text among them escaped."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else _escaped(child) for child in children if child is not None
        )
    )


def _escaped(text: str) -> str:
    """`text` as it looks, line by line: nothing in it is markup, or steers or reorders what is around it."""
    return escape("\n".join(map(printable, text.split("\n"))), quote=True)


def _written(value: str | float) -> str:
    """A figure with as many places as a pixel needs."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
