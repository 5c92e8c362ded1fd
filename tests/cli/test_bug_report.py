"""The error for a bug: the exception, its place in autobatch, the versions, and no path of the user's."""

from __future__ import annotations

import re

import pytest

from autobatch._version import __version__
from autobatch.cli import bug_report
from autobatch.records import formatting


def test_the_place_is_the_innermost_in_autobatch() -> None:
    with pytest.raises(TypeError) as raised:
        formatting.parse_bytes(3)  # type: ignore[arg-type]
    error = bug_report.error_of(raised.value)
    assert error.code == "internal_error"
    exception, place, versions = error.facts
    assert exception.startswith("TypeError: ")
    assert re.fullmatch(r"at autobatch/records/formatting\.py:\d+, in `parse_bytes`", place)
    assert f"autobatch {__version__}, Python " in versions
    assert bug_report.TRACEBACK_VARIABLE in error.hint
