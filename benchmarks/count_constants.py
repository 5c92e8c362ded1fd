"""Counts the numbers that the decision path depends on: each is a rule that somebody has to know.

    python benchmarks/count_constants.py [--rooms decision measurement] [--without MODULE ...] [--at-most N]

Counted over the syntax tree: numbers in module-level assignments, and numbers other than -1, 0, 0.5, 1 and 2
in conditions and in default arguments. A tuple of a name each (`A, B = 1, 2`) counts each; a table of numbers
under one name counts once. Units (`1 << 30`) and values that a call computes from others don't count. Prints
a line for each; exits with 1 above `--at-most`.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "autobatch"
# Numbers that mean "none", "one", "half" or "twice" rather than a threshold.
PLAIN = (-1, 0, 0.5, 1, 2)


@dataclass(frozen=True)
class Constant:
    """A number in the code, or a table of numbers under one name."""

    path: Path
    line: int
    name: str
    text: str

    def __str__(self) -> str:
        where = f"{self.path.relative_to(PACKAGE.parent).as_posix()}:{self.line}"
        return f"{where:48} {self.name:28} {self.text}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rooms", nargs="+", default=["decision", "measurement"], help="packages to count")
    parser.add_argument("--without", nargs="+", default=[], help="modules to leave out")
    parser.add_argument("--at-most", type=int, help="exit with 1 above this count")
    options = parser.parse_args()
    counted = [
        constant
        for room in options.rooms
        for path in sorted((PACKAGE / room).rglob("*.py"))
        if path.stem not in options.without
        for constant in constants(path)
    ]
    for constant in counted:
        print(constant)
    print(f"{len(counted)} constants in {', '.join(options.rooms)}")
    if options.at_most is not None and len(counted) > options.at_most:
        sys.exit(1)


def constants(path: Path) -> Iterator[Constant]:
    """The constants of a module, in the order of its lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [*_assigned(tree), *_compared(tree), *_defaults(tree)]
    for line, name, node in sorted(found, key=lambda each: each[0]):
        yield Constant(path, line, name, ast.unparse(node)[:60])


def _assigned(tree: ast.Module) -> Iterator[tuple[int, str, ast.expr]]:
    """Module-level names of numbers, or of tables of them."""
    for statement in tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = list(zip(target.elts, statement.value.elts, strict=True))
            else:
                pairs = [(target, statement.value)]
            for each, value in pairs:
                if any(map(_is_number, ast.walk(value))) and not _is_derived(value):
                    yield statement.lineno, ast.unparse(each), value


def _compared(tree: ast.Module) -> Iterator[tuple[int, str, ast.expr]]:
    """Numbers anywhere in a condition: of a comparison, and in what it compares."""
    seen: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for part in ast.walk(node):
                if _is_threshold(part) and id(part) not in seen:
                    seen.add(id(part))
                    yield node.lineno, "in a condition", node


def _defaults(tree: ast.Module) -> Iterator[tuple[int, str, ast.expr]]:
    """Numbers as defaults of arguments and of the fields of classes."""
    for node in ast.walk(tree):
        values: list[ast.expr | None] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            values = [*node.args.defaults, *node.args.kw_defaults]
        elif isinstance(node, ast.ClassDef):
            values = [part.value for part in node.body if isinstance(part, ast.AnnAssign)]
        for value in values:
            if value is not None and any(map(_is_threshold, ast.walk(value))):
                yield value.lineno, f"default in {getattr(node, 'name', 'a lambda')}", value


def _is_derived(value: ast.expr) -> bool:
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.LShift):
        return ast.unparse(value.left) == "1"
    tables = ast.Dict | ast.List | ast.Set | ast.Tuple
    return not isinstance(value, tables) and any(isinstance(part, ast.Call) for part in ast.walk(value))


def _is_number(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    )


def _is_threshold(node: ast.AST) -> bool:
    return _is_number(node) and isinstance(node, ast.Constant) and node.value not in PLAIN


if __name__ == "__main__":
    main()
