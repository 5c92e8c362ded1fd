"""Tells the user's code from libraries, and digests its files.

It imports the standard library only, and runs in the worker.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from types import ModuleType

_INSTALLED = ("site-packages", "dist-packages")
# Large and mostly compiled packages, which the fingerprint covers by their versions.
_BY_VERSION = ("torch", "numpy", "autobatch")
PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_BLOCK_BYTES = 1 << 20
_EXAMPLES = os.path.join(PACKAGE, "examples")


def is_user_code(module: str | None) -> bool:
    """True for a module of the user's: one without a file, or with a file outside all installed packages."""
    if not module or module == "__main__":
        return True
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return False
    # A module without a file that a package makes belongs to the package.
    file = _file(module) or _file(top)
    return file is None or not _is_installed(file)


def contents(modules: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the user's imported files, and of the files that define `modules`, by module.

    Raises OSError where a file can't be read.
    """
    return {name: file_digest(file) for name, file in files_of_code(modules).items()}


def files_of_code(modules: Iterable[str]) -> dict[str, str]:
    """The user's imported files, and the files that define `modules`, by module."""
    user = [name for name in list(sys.modules) if (file := _file(name)) and not _is_installed(file)]
    named = [name for name in modules if (_file(name) or "").endswith(".py") and not _has_version(name)]
    return {name: _file(name) or "" for name in sorted({*user, *named})}


def files_of_packages() -> set[str]:
    """A file of each installed package that is imported: it changes with the package's version."""
    outermost = set()
    for module in list(sys.modules):
        if module.partition(".")[0] in sys.stdlib_module_names:
            continue
        words = module.split(".")
        names = (".".join(words[:count]) for count in range(1, len(words) + 1))
        file = next(filter(None, map(_file, names)), None)
        if file is not None and _is_installed(file):
            outermost.add(file)
    return outermost


def compiled_packages() -> set[str]:
    """The names of the packages outside the standard library of which a compiled module is imported."""
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    folders = [os.path.realpath(folder) + os.sep for folder in sys.path if folder]
    packages = set()
    for module in list(sys.modules):
        file = _file(module) or ""
        if file.endswith(suffixes) and module.partition(".")[0] not in sys.stdlib_module_names:
            # Some compiled modules are registered without the name of their package, so the folder counts.
            path = os.path.realpath(file)
            folder = max((folder for folder in folders if path.startswith(folder)), key=len, default="")
            packages.add(path[len(folder) :].partition(os.sep)[0].partition(".")[0] or path)
    return packages - {"lib-dynload"}


def of_package(folder: str = PACKAGE) -> str:
    """SHA-256 of the code of this package. Changed code may give another answer at the same version."""
    whole = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(file for file in files if file.endswith(".py")):
            path = os.path.join(place, name)
            whole.update(f"{os.path.relpath(path, folder)} {file_digest(path)}\n".encode())
    return whole.hexdigest()


def _has_version(module: str) -> bool:
    top = module.partition(".")[0]
    in_examples = module.startswith("autobatch.examples")
    return top in sys.stdlib_module_names or (top in _BY_VERSION and not in_examples)


def _file(module: str) -> str | None:
    imported = sys.modules.get(module)
    # Not by attribute: that would make a lazy module import its contents.
    file = vars(imported).get("__file__") if isinstance(imported, ModuleType) else None
    return file if isinstance(file, str) else None


def _is_installed(file: str) -> bool:
    return _holds_installed(os.path.dirname(file))


@cache
def _holds_installed(folder: str) -> bool:
    path = os.path.realpath(folder) + os.sep
    if path.startswith(PACKAGE + os.sep):
        return not path.startswith(_EXAMPLES + os.sep)
    installed = any(part in _INSTALLED for part in path.split(os.sep))
    return installed or path.startswith(_library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [sysconfig.get_path(name) for name in names] + [site.getusersitepackages()]
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


def file_digest(path: str) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises OSError where it can't be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
