"""The price file: TOML or JSON with a `currency`, and a price for each kind of node under `per_hour`."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from autobatch.records.errors import UsageError
from autobatch.records.escaping import printable
from autobatch.records.fleet import Prices

_HINT = (
    'write `currency = "EUR"`, then under `[per_hour]` a line such as `"8 x NVIDIA H100 80GB HBM3" = 30.0`'
)
_FIELDS = ("currency", "per_hour")
_LARGEST_BYTES = 1 << 20


def load(path: str) -> Prices:
    """The prices in a file. Raises UsageError where the file can't be read or has no prices."""
    file = Path(path)
    try:
        if not file.is_file():
            raise OSError("there is no such file")
        if file.stat().st_size > _LARGEST_BYTES:
            raise OSError(f"it has more than {_LARGEST_BYTES:,} bytes")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, str(error)) from error
    return parse(text, path)


def parse(text: str, path: str) -> Prices:
    """The prices in a text; errors name `path`. Raises UsageError where the text has no prices."""
    try:
        content = msgspec.json.decode(text) if path.endswith(".json") else msgspec.toml.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    currency, per_hour = (content.get(name) if isinstance(content, dict) else None for name in _FIELDS)
    if not isinstance(currency, str) or not currency.strip():
        raise _unusable(path, "it has no `currency`")
    if not isinstance(per_hour, dict) or not per_hour:
        raise _unusable(path, "it has no prices under `per_hour`")
    for kind, price in per_hour.items():
        if not _is_price(price):
            raise _unusable(path, f"the price of `{printable(kind)}` is {printable(repr(price))}")
    return Prices(
        currency=currency.strip(), per_hour={kind: float(price) for kind, price in per_hour.items()}
    )


def _is_price(price: Any) -> bool:
    number = isinstance(price, (int, float)) and not isinstance(price, bool)
    return number and 0 <= price < 1e12 and isfinite(price)


def _unusable(path: str, fact: str) -> UsageError:
    return UsageError(
        f"`{printable(path)}` is not a file of prices", code="bad_prices", facts=(fact,), hint=_HINT
    )
