"""Figures as people read them, and the sizes and times that people type. Pure text, no device."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from decimal import Decimal
from fractions import Fraction
from math import isfinite

from autobatch.records.errors import UsageError
from autobatch.records.escaping import printable
from autobatch.records.limits import Precision

MISSING = "-"
# The optimizers of workload.optimizers.NAMED.
OPTIMIZERS = ("sgd", "sgd-momentum", "rmsprop", "adagrad", "adafactor", "adam", "adamw", "adamw-fused")

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BYTES_OF = {unit.lower(): 1024**power for power, unit in enumerate(_BINARY)} | {
    unit.lower(): 1000**power for power, unit in enumerate(_DECIMAL)
}
_SECONDS_OF = {
    **dict.fromkeys(("µs", "us"), Fraction(1, 1_000_000)),
    "ms": Fraction(1, 1000),
    **dict.fromkeys(("", "s", "sec"), Fraction(1)),
    **dict.fromkeys(("m", "min"), Fraction(60)),
    **dict.fromkeys(("h", "hours"), Fraction(3600)),
    "d": Fraction(86_400),
}
_NUMBER = r"([0-9]{1,30}(?:\.[0-9]{1,30})?)"
_SIZE = re.compile(rf"\s*{_NUMBER}\s*([A-Za-z]*)\s*")
_PERIOD = re.compile(rf"\s*{_NUMBER}\s*([A-Za-zµ]*)\s*")
# Beyond this, figures are in scientific notation: no column holds them, and nothing real reaches them.
_HUGE = 10**15


def format_bytes(count: int | None) -> str:
    """`7.0 GiB`, `600 MiB`, `512 B`: three figures or so, in the unit that keeps them below 1000."""
    if count is None:
        return MISSING
    sign, left = ("-", -count) if count < 0 else ("", count)
    if left < 1000:
        return f"{sign}{left} B"
    for power, unit in enumerate(_BINARY[1:], start=1):
        # Halves round up, as integers: a float would carry the binary noise of its own division.
        if (tenths := (left * 20 // 1024**power + 1) // 2) < 1000:
            return f"{sign}{tenths // 10}.{tenths % 10} {unit}"
        if (whole := (left * 2 // 1024**power + 1) // 2) < 1000:
            return f"{sign}{whole} {unit}"
    return f"{sign}{Decimal(left):.1e} B"


def format_count(count: int | None) -> str:
    """`1,563`."""
    if count is None:
        return MISSING
    return f"{count:,}" if abs(count) < _HUGE else f"{Decimal(count):.1e}"


def format_percent(share: float | None) -> str:
    """`71%` of a share from 0 to 1; a little that isn't nothing is `<1%`."""
    if share is None or not isfinite(share):
        return MISSING
    if 0 < share < 0.005:
        return "<1%"
    return f"{share:.0%}" if abs(share) < _HUGE else f"{share:.1e}"


def format_rate(rate: float | None) -> str:
    """`1,008`, `52.1`, `1.23M`: a rate in 7 columns at most."""
    if rate is None or not isfinite(rate):
        return MISSING
    size = abs(rate)
    if size < 0.9995:
        return f"{rate:.3f}" if size >= 0.01 else f"{rate:.0e}" if size else "0"
    if size < 99.95:
        return _three_figures(rate)
    if size < 999_999.5:
        return f"{rate:,.0f}"
    for factor, suffix in ((1e6, "M"), (1e9, "G")):
        if size < 999.5 * factor:
            return f"{_three_figures(rate / factor)}{suffix}"
    return f"{rate:.0e}"


def format_spread(rate: float | None, interval: tuple[float, float] | None) -> str:
    """`12%`: the distance from a rate to the farther end of its interval, in 5 columns at most."""
    if rate is None or interval is None or not rate > 0:
        return MISSING
    share = max(interval[1] - rate, rate - interval[0], 0.0) / rate
    return format_percent(share) if not share >= 9.995 else ">999%"


def format_milliseconds(seconds: float | None) -> str:
    """`2.32`, `40.9`, `1,150`: three figures of a time in milliseconds, without the unit."""
    if seconds is None or not isfinite(seconds) or seconds < 0:
        return MISSING
    milliseconds = seconds * 1e3
    if milliseconds < 0.9995:
        return f"{milliseconds:.3f}" if milliseconds >= 0.001 else f"{milliseconds:.0e}"
    if milliseconds < 999.5:
        return _three_figures(milliseconds)
    return f"{milliseconds:,.0f}" if milliseconds < 9_999_999.5 else f"{milliseconds:.1e}"


def _three_figures(number: float) -> str:
    """`1.24`, `40.8`, `127` for numbers from 1 to 1000."""
    size = abs(number)
    return f"{number:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


def format_duration(seconds: float | None) -> str:
    """`812 µs`, `40.8 ms`, `1.24 s`, `64.3 s`, `2 min 05 s`, `1 h 04 min`, `2 d 03 h`."""
    if seconds is None or not isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 119.5:
        return _below_two_minutes(seconds)
    if (whole := round(seconds)) < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if (minutes := round(seconds / 60)) < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24:,} d {hours % 24:02} h" if seconds < _HUGE else f"{seconds:.1e} s"


def format_short_duration(seconds: float | None) -> str:
    """The same in 7 columns at most, with one unit: `40.8 ms`, `64.3 s`, `2.5 min`, `3.2 h`, `51 d`."""
    if seconds is None or not isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 119.5:
        return _below_two_minutes(seconds)
    for unit_seconds, unit, until in ((60, "min", 119.5), (3600, "h", 99.5), (86_400, "d", 9999.5)):
        if (amount := seconds / unit_seconds) < until:
            return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:,.0f} {unit}"
    return f"{seconds:.0e} s"


def _below_two_minutes(seconds: float) -> str:
    if seconds < 0.0009995:
        return f"{_three_figures(seconds * 1e6)} µs"
    if seconds < 0.9995:
        return f"{_three_figures(seconds * 1e3)} ms"
    return f"{_three_figures(seconds)} s"


def parse_moment(moment: str) -> datetime:
    """The time of a text in ISO 8601; Python 3.10 can't read the `Z` of UTC itself. Raises ValueError."""
    return datetime.fromisoformat(f"{moment[:-1]}+00:00" if moment.endswith("Z") else moment)


def format_moment(moment: str) -> str:
    """`2026-11-24 19:16 UTC` of a time in ISO 8601; anything else as it is."""
    try:
        utc = parse_moment(moment).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return moment
    return f"{utc:%Y-%m-%d %H:%M} UTC"


def parse_bytes(text: str) -> int:
    """Bytes in `600MiB`, `1.5GiB`, `2GB` or `12345`, rounded down. Raises UsageError.

    A bare `M` or `G` is refused: tools differ on which of the two units it means.
    """
    match = _SIZE.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    factor = _BYTES_OF.get(unit or "b")
    hint = "write bytes or a unit: `600MiB`, `1.5GiB`, `2GB`, `629145600`"
    if match is None or factor is None:
        fact = "there is no whole number or decimal with a unit in it"
        if match is not None and unit in "kmgtpe":
            number, letter = match.group(1), unit.upper()
            fact = f"`{letter}` could mean `{letter}iB` or `{letter.replace('K', 'k')}B`"
            hint = f"write `{number}{letter}iB` (powers of 1024) or `{number}{letter.replace('K', 'k')}B`"
        elif match is not None:
            fact = f"`{printable(match.group(2))}` is not a unit of memory"
        raise UsageError(
            f"`{printable(text)}` is not an amount of memory", code="bad_bytes", facts=(fact,), hint=hint
        )
    count = int(Fraction(match.group(1)) * factor)
    if not 1 <= count < 2**63:
        fact = "that is less than one byte" if count < 1 else "that is more than 8 EiB"
        raise UsageError(
            f"`{printable(text)}` is no usable amount of memory", code="bad_bytes", facts=(fact,), hint=hint
        )
    return count


def parse_precision(text: object) -> Precision:
    """The precision of that name. Raises UsageError for anything else."""
    for precision in Precision:
        if text == precision:
            return precision
    choices = ", ".join(f"`{precision}`" for precision in Precision)
    raise UsageError(
        f"`precision` must be one of {choices}, not `{printable(str(text))}`",
        code="bad_precision",
        hint="`bf16` and `fp16` mean autocast; a model that is kept in another type needs no option",
    )


def parse_optimizer(text: str) -> str:
    """The name of an optimizer that a plan can be made for. Raises UsageError for anything else."""
    name = text.strip().lower()
    if name in OPTIMIZERS:
        return name
    raise UsageError(
        f"`{printable(text)}` is not an optimizer that has a name here",
        code="bad_optimizer",
        facts=(f"known are {', '.join(f'`{name}`' for name in OPTIMIZERS)}",),
        hint="name one whose state has the same size, or set your own in the model file",
    )


def parse_seconds(text: str) -> float:
    """Seconds in `60s`, `2m`, `1.5h`, `500ms`, `1h30m` or `90`, more than zero. Raises UsageError."""
    total, rest, fact = Fraction(0), text, "it is empty"
    while rest.strip():
        match = _PERIOD.match(rest)
        factor = _SECONDS_OF.get(match.group(2).lower()) if match else None
        if match is None or factor is None:
            what = match.group(2) if match else rest
            fact = f"`{printable(what)}` is not a {'unit of time' if match else 'number with a unit'}"
            break
        total, rest = total + Fraction(match.group(1)) * factor, rest[match.end() :]
        if not match.group(2) and (rest.strip() or match.end() < len(text.rstrip())):
            fact = f"`{match.group(1)}` lacks its unit"
            break
    else:
        seconds = float(total)
        if seconds > 0:
            return seconds
        fact = "it has to be more than zero" if text.strip() else fact
    raise UsageError(
        f"`{printable(text)}` is not a time",
        code="bad_seconds",
        facts=(fact,),
        hint="write seconds or a unit: `90`, `60s`, `2m`, `1.5h`",
    )
