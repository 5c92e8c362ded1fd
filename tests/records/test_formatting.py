"""Figures: exact examples, never too wide for their column, in order, and read back as they were typed."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.records.errors import UsageError
from autobatch.records.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_milliseconds,
    format_percent,
    format_rate,
    format_short_duration,
    format_spread,
    parse_bytes,
    parse_seconds,
    printable,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (600 * 2**20, "600 MiB"),
        (7 * 2**30, "7.0 GiB"),
        (999 * 2**20, "999 MiB"),
        (1000 * 2**20, "1.0 GiB"),
        (int(78.4 * 2**30), "78.4 GiB"),
        (-(2**30), "-1.0 GiB"),
        (2**80, "1.2e+24 B"),
        (None, "-"),
    ],
)
def test_bytes(count: int | None, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1008.4, "1,008"),
        (783.2, "783"),
        (52.34, "52.3"),
        (5.234, "5.23"),
        (0.0521, "0.052"),
        (0.00123, "1e-03"),
        (123_456.0, "123,456"),
        (999_999.4, "999,999"),
        (1_234_567.0, "1.23M"),
        (2e15, "2e+15"),
        (0.0, "0"),
        (float("nan"), "-"),
        (None, "-"),
    ],
)
def test_rate(rate: float | None, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("rate", "interval", "text"),
    [
        (1008, (1006, 1009), "<1%"),
        (10_080, (8_876, 11_284), "12%"),
        # The farther end counts.
        (100, (99, 140), "40%"),
        (100, (100, 100), "0%"),
        (100, (-1e9, 1e9), ">999%"),
        (0.0, (0.0, 0.0), "-"),
        (100, None, "-"),
        (None, (1.0, 2.0), "-"),
        (100, (float("nan"), float("nan")), "-"),
    ],
)
def test_spread(rate: float | None, interval: tuple[float, float] | None, text: str) -> None:
    assert format_spread(rate, interval) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00232, "2.32"),
        (0.0408, "40.8"),
        (0.2422, "242"),
        (1.15, "1,150"),
        (0.0000521, "0.052"),
        (19.194, "19,194"),
        (1e9, "1.0e+12"),
        (-1.0, "-"),
        (None, "-"),
    ],
)
def test_milliseconds(seconds: float | None, text: str) -> None:
    assert format_milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text", "short"),
    [
        (0, "0.00 µs", "0.00 µs"),
        (0.000812, "812 µs", "812 µs"),
        (0.0408, "40.8 ms", "40.8 ms"),
        (1.24, "1.24 s", "1.24 s"),
        (64.3, "64.3 s", "64.3 s"),
        (110.2, "110 s", "110 s"),
        (119.6, "2 min 00 s", "2.0 min"),
        (125, "2 min 05 s", "2.1 min"),
        (3599.7, "1 h 00 min", "60 min"),
        (3840, "1 h 04 min", "64 min"),
        (11_500, "3 h 12 min", "3.2 h"),
        (4_400_000, "50 d 22 h", "51 d"),
        (-1.0, "-", "-"),
        (None, "-", "-"),
    ],
)
def test_duration(seconds: float | None, text: str, short: str) -> None:
    assert format_duration(seconds) == text
    assert format_short_duration(seconds) == short


def test_counts_and_shares() -> None:
    assert [format_count(count) for count in (1563, 0, None)] == ["1,563", "0", "-"]
    shares = (0.71, 1.0, 0.0, 0.001, None, float("nan"))
    assert [format_percent(share) for share in shares] == ["71%", "100%", "0%", "<1%", "-", "-"]


@given(st.integers(0, 2**69))
def test_bytes_fit_their_column(count: int) -> None:
    assert len(format_bytes(count)) <= 8


@given(st.just(0.0) | st.floats(1e-9, 1e15), st.floats(0, 1e15), st.floats(0, 1e15))
def test_rates_and_their_spreads_fit_their_columns(rate: float, below: float, above: float) -> None:
    assert len(format_rate(rate)) <= 7
    assert len(format_spread(rate, (rate - below, rate + above))) <= 5


@given(st.floats(1e-9, 1e12))
def test_milliseconds_fit_their_column(seconds: float) -> None:
    assert len(format_milliseconds(seconds)) <= 9


@given(st.floats(0, 8e8))
def test_short_durations_fit_their_column(seconds: float) -> None:
    assert len(format_short_duration(seconds)) <= 7


@given(st.floats())
def test_any_float_has_a_text(number: float) -> None:
    for text in (
        format_rate(number),
        format_spread(number, (number, number)),
        format_milliseconds(number),
        format_percent(number),
        format_duration(number),
        format_short_duration(number),
    ):
        assert text
        assert len(text) <= 24


@given(st.integers(1, 2**62), st.integers(1, 2**62))
def test_bytes_keep_their_order(one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert parse_bytes(format_bytes(small)) <= parse_bytes(format_bytes(large))


@given(st.floats(1e-5, 8e8), st.floats(1e-5, 8e8))
def test_durations_keep_their_order(one: float, other: float) -> None:
    small, large = sorted((one, other))
    for render in (format_duration, format_short_duration):
        assert _seconds(render(small)) <= _seconds(render(large))


def _seconds(text: str) -> float:
    return parse_seconds(text.replace(",", ""))


@given(st.integers(1, 2**62))
def test_bytes_read_back(count: int) -> None:
    assert parse_bytes(str(count)) == count
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.051)
    if count < 2**32:
        assert parse_bytes(f"{count}MiB") == count * 2**20
        assert parse_bytes(f"{count / 16}GiB") == count * 2**26


@given(st.floats(1e-5, 1e7))
def test_durations_read_back(seconds: float) -> None:
    assert _seconds(format_duration(seconds)) == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("600MiB", 600 * 2**20),
        ("1.5GiB", 3 * 2**29),
        (" 1.5 gib ", 3 * 2**29),
        ("2GB", 2 * 10**9),
        ("12345", 12345),
        ("12345B", 12345),
        ("0.1KiB", 102),
    ],
)
def test_parse_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("2m", 120),
        ("1.5h", 5400),
        ("90", 90),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("2 min 05 s", 125),
    ],
)
def test_parse_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "600M",
        "1,5GiB",
        "-1",
        "0",
        "0.2B",
        "9EiB",
        "1e9",
        "GiB",
        "12 parsecs",
        "nan",
        "٣",
        "\x1b[2J",
        "9" * 99,
    ],
)
def test_bad_bytes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    _well_told(caught.value, "bad_bytes")


def test_a_bare_letter_is_told_both_ways() -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes("600M")
    assert caught.value.message == "`600M` is not an amount of memory"
    assert caught.value.facts == ("`M` could mean `MiB` or `MB`",)
    assert caught.value.hint == "write `600MiB` (powers of 1024) or `600MB`"


@pytest.mark.parametrize(
    "text",
    ["", "  ", "-5s", "0", "0s", "inf", "nan", "1e3", "5x", "m", "2m30", "30 2m", "1::2", "9" * 40, "\x9b"],
)
def test_bad_seconds(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_seconds(text)
    _well_told(caught.value, "bad_seconds")


def _well_told(error: UsageError, code: str) -> None:
    assert error.code == code
    assert error.message
    assert error.facts
    assert error.hint
    assert str(error).replace("\n", "").isprintable()


@given(st.text(st.characters()))
def test_printable_leaves_nothing_that_steers(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_printable_keeps_what_can_be_read(text: str) -> None:
    assert printable(text) == text


def test_printable_shows_the_usual_attacks() -> None:
    assert printable("\x1b[31m\x9b2J\x07\u202e\u200b\udcff\U000e0041\r\n") == (
        r"\x1b[31m\x9b2J\x07\u202e\u200b\udcff\U000e0041\x0d\x0a"
    )
    assert not re.search(r"\\", printable("模型 naïve ± 2 … █"))
