"""Which code is the user's own, and what its files hold. Standard library only; runs in the worker."""

from __future__ import annotations

import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from types import ModuleType

_INSTALLED = ("site-packages", "dist-packages")
# Large, compiled for the most part, and told by the version of torch.
_BY_VERSION = ("torch", "numpy", "autobatch")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_EXAMPLES = os.path.join(_PACKAGE, "examples")


def is_own(module: str | None) -> bool:
    """True for code of the user's: what was sent without a file, and files outside all installed ones."""
    if not module or module == "__main__":
        return True
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return False
    # What a package makes without a file is the package's.
    file = _file(module) or _file(top)
    return file is None or not _is_installed(file)


def contents(modules: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the user's own files that were imported, and of those that define `modules`, by module.

    Raises OSError where one can't be read.
    """
    own = [name for name in list(sys.modules) if (file := _file(name)) and not _is_installed(file)]
    met = [name for name in modules if (_file(name) or "").endswith(".py") and not _has_version(name)]
    return {name: _content(_file(name) or "") for name in sorted({*own, *met})}


def of_package(folder: str = _PACKAGE) -> str:
    """SHA-256 of the code of this package: other rules give other answers, whatever the version."""
    whole = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(file for file in files if file.endswith(".py")):
            path = os.path.join(place, name)
            whole.update(f"{os.path.relpath(path, folder)} {_content(path)}\n".encode())
    return whole.hexdigest()


def _has_version(module: str) -> bool:
    top = module.partition(".")[0]
    in_examples = module.startswith("autobatch.examples")
    return top in sys.stdlib_module_names or (top in _BY_VERSION and not in_examples)


def _file(module: str) -> str | None:
    found = sys.modules.get(module)
    # Not by attribute: a module that imports lazily would begin to.
    file = vars(found).get("__file__") if isinstance(found, ModuleType) else None
    return file if isinstance(file, str) else None


def _is_installed(file: str) -> bool:
    return _holds_installed(os.path.dirname(file))


@cache
def _holds_installed(folder: str) -> bool:
    path = os.path.realpath(folder) + os.sep
    if path.startswith(_PACKAGE + os.sep):
        return not path.startswith(_EXAMPLES + os.sep)
    installed = any(part in _INSTALLED for part in path.split(os.sep))
    return installed or path.startswith(_library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [sysconfig.get_path(name) for name in names] + [site.getusersitepackages()]
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


def _content(file: str) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
