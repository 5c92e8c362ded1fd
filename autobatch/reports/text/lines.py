"""Styled lines for a terminal: measured in cells, wrapped, shortened, painted. Says nothing itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from io import StringIO

from autobatch.records.escaping import printable
from autobatch.records.formatting import format_count

# A span is a text and a rich style ("" for none); a line is its spans from left to right.
Span = tuple[str, str]
Line = tuple[Span, ...]

# A figure stays with its unit and its doubt: "7.0 GiB" and "1,008 ± 2" are not broken over two lines.
_BREAK = re.compile(r" (?!(?:[KMGTPE]?i?B|µs|ms|s|min|h|d|±)(?!\w))(?<!± )")
# Characters of one text that a report shows: a damaged or hostile file may hold millions.
_LONGEST_TEXT = 4000
_NARROWEST = 8


def cells(text: str) -> int:
    """The columns that `text` takes on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def clean(text: str) -> str:
    """`text` on one line, with what steers a terminal made visible and what nobody would read cut off.

    Done before lines are laid out, since an escape takes more cells than what it stands for.
    """
    text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"
    return printable(" ".join(text.split()))


def counted(count: int, noun: str) -> str:
    """`1 sample`, `1,437 samples`."""
    return f"{format_count(count)} {noun}" + ("" if count == 1 else "s")


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` cells, with "…" at its end where something is missing."""
    # Combining characters take no cells, so the cells alone would not bound the length.
    text = text if len(text) <= 4 * width else text[: 4 * width] + "…"
    if cells(text) <= width:
        return text
    return _head(text, width - 1).rstrip() + "…"


def wrap(text: str, width: int, *, chop: bool = True) -> list[str]:
    """`text` in lines of at most `width` cells, broken at spaces; one empty line for no text.

    A longer word is cut where `chop`, else it makes its line too long: a path that somebody has to
    copy is better whole.
    """
    # Beside a long label on a narrow terminal no room may be left at all.
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
    """The lines of a word that is too long for one, the first after what that line has `begun` with."""
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
    """`text` wrapped beside `label`; the lines below the first are indented by the label's width."""
    first, *rest = wrap(text, width - cells(label), chop=chop)
    indent = " " * cells(label)
    return [((label, label_style), (first, style)), *(((indent, ""), (line, style)) for line in rest)]


def join(parts: Sequence[str], width: int, *, style: str = "", first_style: str = "") -> list[Line]:
    """`parts` with " · " between them, as many on a line as fit; further lines are indented by two."""
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
    """The lines as one string without a newline at its end; with ANSI colours where `colour`.

    Every report ends here: whatever its parts came from, no span of it steers a terminal.
    """
    lines = [tuple((printable(text), style) for text, style in line) for line in lines]
    if not colour:
        return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
    from rich.console import Console
    from rich.text import Text

    # Every choice is given: the renderer must not look at this process's terminal or environment.
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
    """The longest beginning of `text` that fits in `width` cells, at least one character."""
    end = min(len(text), max(width, 1))
    while end > 1 and cells(text[:end]) > width:
        end -= 1
    return text[:end]
