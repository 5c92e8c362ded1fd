"""Text of others made harmless for a terminal: names, messages, and what the user's code prints."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Everything that steers a terminal or reorders text: C0, C1, bidi and zero-width, surrogates, line ends.
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")
_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")
_PLAIN = "\x1b[0m"


def printable(text: str) -> str:
    r"""`text` with all that could steer a terminal made visible: `\x1b`, `\u202e`, `\udcff`.

    Control characters (C0, DEL, C1), bidi overrides, zero-width characters, lone surrogates and line
    ends are escaped. For every string that comes from the user's model, files or devices.
    """
    return _escaped(text, _visible)


def printable_output(line: str, *, colour: bool) -> str:
    """A line that the user's code printed, as a terminal would leave it, and harmless to one.

    Of a line that was drawn over again (a progress bar's carriage returns) it is the last state. Tabs stay.
    Colours stay where `colour` and end with the line; elsewhere they are left out. All else that steers is
    made visible, as by `printable`.
    """
    states = [state for state in line.split("\r") if state]
    text, *rest = _COLOUR.split(states[-1] if states else "")
    shown = [_tabbed(text)]
    for sequence, text in zip(rest[::2], rest[1::2], strict=True):
        shown += [sequence if colour else "", _tabbed(text)]
    return "".join(shown) + (_PLAIN if rest and colour else "")


def escaped_json(document: str) -> str:
    r"""The same JSON document with all that could steer a terminal as JSON's own escapes: `\u009b`.

    Spaces and line ends between its parts stay.
    """
    return "\n".join(_escaped(line, _in_json) for line in document.split("\n"))


def _tabbed(text: str) -> str:
    return "\t".join(map(printable, text.split("\t")))


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(escape(char) if unicodedata.category(char) in _STEERING else char for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _in_json(char: str) -> str:
    units = char.encode("utf-16-be", errors="surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
