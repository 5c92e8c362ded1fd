"""The page of questions from the field: the tests that it names exist; a row without a test has a reason."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "field.md"
HEADER = "| thread | question | answer here | at d58a24b | test |"
HEADER_OF_KINDS = "| kind | test | answer of d58a24b |"
KINDS = "tests/faults/test_field_kinds.py"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
# `owner/name 12, 34; name 56`: repositories with their threads.
THREADS = re.compile(r"[\w./-]+ \d+(, \d+)*(; [\w./-]+ \d+(, \d+)*)*")


def _rows(header: str = HEADER) -> list[list[str]]:
    """The cells of each row of the tables with this header, the tables of threads by default."""
    rows: list[list[str]] = []
    in_table = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        in_table = line == header or (in_table and line.startswith("|"))
        if in_table and line != header and not line.startswith("|---"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def _threads(cell: str) -> set[str]:
    """Each thread as its repository and number."""
    threads = set()
    for part in cell.split("; "):
        repository, numbers = part.split(" ", 1)
        threads |= {f"{repository} {number}" for number in numbers.split(", ")}
    return threads


@cache
def _docstrings(path: str) -> dict[str, str]:
    """The docstring of each test in a file, by its name."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {test.name: ast.get_docstring(test) or "" for test in tests}


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0])
def test_a_row_has_tests_that_exist_and_name_its_threads_or_a_reason(row: list[str]) -> None:
    threads, question, answer, before, held_by = row
    assert THREADS.fullmatch(threads)
    assert question
    assert answer
    assert before == "mended" or before.startswith("right already: ")
    tests = TEST.findall(held_by)
    assert tests or (held_by.startswith("no test: ") and before != "mended")
    for path, name in tests:
        assert name in _docstrings(path), f"{path} has no {name}"
        numbers = re.findall(r"\b\d+\b", _docstrings(path)[name])
        named = [thread for thread in _threads(threads) if thread.rsplit(" ", 1)[1] in numbers]
        assert named, f"the docstring of {name} names none of {threads}"


def test_enough_threads_are_answered() -> None:
    rows = _rows()
    assert len(set().union(*(_threads(row[0]) for row in rows))) >= 40
    assert len({row[0] for row in rows if row[3] == "mended"}) >= 25


def test_each_kind_has_its_answer_at_d58a24b() -> None:
    rows = _rows(HEADER_OF_KINDS)
    docstrings = {name: text for name, text in _docstrings(KINDS).items() if name.startswith("test_")}
    assert [row[1].strip("`") for row in rows] == list(docstrings)
    assert all(re.search(r"\w \d+", text) for text in docstrings.values())
    assert all(row[0] and row[2] for row in rows)
    assert len(rows) >= 25


def test_the_threads_of_a_cell_are_read() -> None:
    assert _threads("a/b 1, 22; c-d 3") == {"a/b 1", "a/b 22", "c-d 3"}


def test_every_test_on_the_page_is_read() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("::test_") == sum(len(TEST.findall(row[4])) for row in _rows())
