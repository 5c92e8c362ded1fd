"""Styled lines for a terminal: measured in cells, wrapped, shortened and painted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from io import StringIO

from autobatch.records.escaping import printable
from autobatch.records.formatting import format_count

# A span is a text and a rich style ("" for none); a line is its spans from left to right.
Span = tuple[str, str]
Line = tuple[Span, ...]

# A figure stays with its unit and its interval: "7.0 GiB" and "1,008 ± 2" are not broken.
_BREAK = re.compile(r" (?!(?:[KMGTPE]?i?B|µs|ms|s|min|h|d|±)(?!\w))(?<!± )")
# Characters of one text that a report shows: a damaged or hostile file may hold millions.
_LONGEST_TEXT = 4000
_NARROWEST = 8


def cells(text: str) -> int:
    """Count the columns of `text` on a terminal: wide characters take two, combining characters none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def clean(text: str) -> str:
    """Return `text` on one line, cut at a length that nobody reads, with all visible that steers a terminal.

    Lines are laid out after this, since an escape takes more cells than its character.
    """
    text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"
    return printable(" ".join(text.split()))


def counted(count: int, noun: str) -> str:
    """Return `1 sample` or `1,437 samples`."""
    return f"{format_count(count)} {noun}" + ("" if count == 1 else "s")


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` cells, with "…" at its end if it was cut."""
    # Combining characters take no cells, so the cells alone would not bound the length.
    text = text if len(text) <= 4 * width else text[: 4 * width] + "…"
    if cells(text) <= width:
        return text
    return _head(text, width - 1).rstrip() + "…"


def wrap(text: str, width: int, *, chop: bool = True) -> list[str]:
    """Break `text` at spaces into lines of at most `width` cells; no text gives one empty line.

    With `chop`, a longer word is cut. Without, it makes its line too long: a path for copying is better
    whole.
    """
    # A long label on a narrow terminal may leave no room at all.
    width = max(width, _NARROWEST)
    lines: list[str] = [""]
    for word in _BREAK.split(text):
        glued = f"{lines[-1]} {word}" if lines[-1] else word
        if cells(glued) <= width or (not chop and cells(word) > width):
            lines[-1] = glued
            continue
        if chop and cells(word) > width:
            *full, word = _chopped(word, width, begun=lines[-1])
            lines[-1:] = [*full, ""]
        elif lines[-1]:
            lines.append("")
        lines[-1] = word
    return lines if lines[-1] or len(lines) == 1 else lines[:-1]


def _chopped(word: str, width: int, *, begun: str) -> list[str]:
    """Cut a word into lines; the first line begins with `begun`."""
    room = width - cells(begun) - 1
    lines = [begun] if begun else []
    if begun and room >= width // 4:
        head = _head(word, room)
        lines, word = [f"{begun} {head}"], word[len(head) :]
    while cells(word) > width:
        head = _head(word, width)
        lines.append(head)
        word = word[len(head) :]
    return [*lines, word]


def hang(
    label: str, text: str, width: int, *, style: str = "", label_style: str = "", chop: bool = True
) -> list[Line]:
    """Wrap `text` beside `label`; further lines are indented by the width of the label."""
    first, *rest = wrap(text, width - cells(label), chop=chop)
    indent = " " * cells(label)
    return [((label, label_style), (first, style)), *(((indent, ""), (line, style)) for line in rest)]


def flow(parts: Sequence[str], width: int, *, indent: str = "") -> list[Line]:
    """Wrap the first part, and add the others by " · ", each whole on the same line or on the next."""
    texts = wrap(parts[0], width - cells(indent))
    for part in parts[1:]:
        if cells(indent + texts[-1] + part) + 3 <= width:
            texts[-1] += f" · {part}"
        else:
            texts += wrap(part, width - cells(indent))
    return [((indent, ""), (text, "")) for text in texts]


def join(parts: Sequence[str], width: int, *, style: str = "", first_style: str = "") -> list[Line]:
    """Join `parts` by " · ", as many on a line as fit; further lines are indented by two."""
    lines: list[list[Span]] = []
    room = 0
    for number, part in enumerate(parts):
        span = (part, first_style if number == 0 else style)
        if lines and cells(part) + 3 <= room:
            lines[-1] += [(" · ", "dim"), span]
            room -= cells(part) + 3
        else:
            indent = "  " if lines else ""
            span = (shorten(part, width - len(indent)), span[1])
            lines.append([(indent, ""), span])
            room = width - len(indent) - cells(span[0])
    return [tuple(line) for line in lines]


def paint(lines: Iterable[Line], *, colour: bool) -> str:
    """Join the lines to a string without a newline at its end; `colour` adds ANSI colours.

    Every report ends here, so that no span of it steers a terminal.
    """
    lines = [tuple((printable(text), style) for text, style in line) for line in lines]
    if not colour:
        return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
    from rich.console import Console
    from rich.text import Text

    # Every setting is given, so that rich reads neither this process's terminal nor its environment.
    console = Console(
        file=StringIO(),
        force_terminal=True,
        force_jupyter=False,
        color_system="standard",
        no_color=False,
        legacy_windows=False,
        width=10_000,
        _environ={},
    )
    with console.capture() as capture:
        for line in lines:
            text = Text.assemble(*line)
            text.rstrip()
            console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)
    return capture.get().removesuffix("\n")


def _head(text: str, width: int) -> str:
    """Return the longest beginning of `text` in `width` cells, at least one character."""
    end = min(len(text), max(width, 1))
    while end > 1 and cells(text[:end]) > width:
        end -= 1
    return text[:end]
