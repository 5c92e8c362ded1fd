"""The files that a training reads while it is opened, and whether they are the same later.

Importing this module does not import torch: the parent compares files before there is a worker.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from autobatch.records.cached import FilesRead
from autobatch.workload import source_files

# More files are not compared one by one: on a network file system that takes longer than a worker's start.
_MOST_FILES = 4096
# Times of files come from a coarser clock than that of this process.
_CLOCK_STEP_NS = 50_000_000
_SYSTEM_FOLDERS = ("/proc/", "/sys/", "/dev/")
# Names in a folder that an import may look for, besides packages.
_IMPORT_SUFFIXES = (*importlib.machinery.all_suffixes(), ".pth", ".dist-info", ".egg-info", ".egg-link")
_LISTINGS = ("os.listdir", "os.scandir")
_IMPORTERS = ("<frozen importlib.", os.path.dirname(importlib.__file__) + os.sep)
# Events after which another process or machine may have supplied data.
_ELSEWHERE = {
    "os.exec": "another program was run",
    "os.fork": "another process was started",
    "os.forkpty": "another process was started",
    "os.posix_spawn": "another program was run",
    "os.spawn": "another program was run",
    "os.system": "another program was run",
    "pty.spawn": "another program was run",
    "socket.connect": "a connection was opened",
    "socket.sendto": "a connection was opened",
    "subprocess.Popen": "another program was run",
}
# Processes of multiprocessing that start without an event.
_SPAWNING = ("multiprocessing.popen_spawn_posix", "multiprocessing.popen_forkserver")
# Packages whose compiled modules open no data files by themselves. Others may, without an event.
_READ_BY_PYTHON = frozenset(
    (
        *(
            "PIL",
            "_cffi_backend",
            "aiohttp",
            "charset_normalizer",
            "contourpy",
            "frozenlist",
            "gmpy2",
            "google",
        ),
        *("kiwisolver", "markupsafe", "matplotlib", "ml_dtypes", "msgpack", "msgspec", "multidict", "numpy"),
        *("optree", "pandas", "propcache", "psutil", "pydantic_core", "regex", "rpds", "scipy", "sklearn"),
        *("torch", "triton", "yaml", "yarl"),
    )
)


class FileWatch:
    """Records the files and folders that Python code reads inside its `with` blocks, except for `ignored`.

    An audit hook can't be removed, so a process makes one watch at most.
    """

    def __init__(self, ignored: str = "") -> None:
        self._ignored = ignored
        self._begin_ns = time.time_ns() - _CLOCK_STEP_NS
        self._listens = False
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._unseen = ""
        sys.addaudithook(self._hear)

    def __enter__(self) -> FileWatch:
        self._listens = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._listens = False

    def records(self, modules: Iterable[str]) -> FilesRead:
        """Return the files so far, with those of `modules`. Raises OSError for an unreadable source."""
        sources = {
            path: source_files.file_digest(path) for path in source_files.files_of_code(modules).values()
        }
        read = {path for path in self._files if not path.endswith(".pyc") and not _is_in_package(path)}
        read = (read | _mapped_files() | source_files.files_of_packages()) - sources.keys()
        files = {path: state_of(path) for path in read}
        return FilesRead(
            sources=sources,
            files=files,
            folders={folder: _names(folder) for folder in self._folders if not _is_in_package(folder)},
            import_folders={folder: _importable(folder) for folder in map(os.path.abspath, sys.path)},
            unseen=self._unseen or self._why_unseen({*sources, *files}),
        )

    def _why_unseen(self, paths: set[str]) -> str:
        if len(paths) > _MOST_FILES:
            return f"more than {_MOST_FILES:,} files were read"
        if package := next(iter(sorted(source_files.compiled_packages() - _READ_BY_PYTHON)), ""):
            return f"`{package}` may read files by itself"
        if _has_called_operator("image", "read_file"):  # torchvision's, which reads in C++
            return "`torchvision.io` reads files by itself"
        if any(module in sys.modules for module in _SPAWNING):
            return "another process was started"
        changed = next((path for path in paths if _change_ns(path) >= self._begin_ns), "")
        return f"`{changed}` changed meanwhile" if changed else ""

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._listens:
            return
        if event == "open":
            self._add_file(*arguments)
        elif event == "sqlite3.connect":
            self._add_file(arguments[0], None, os.O_RDWR)
        elif event in _LISTINGS:
            self._add_folder(arguments[0], sys._getframe(1).f_code.co_filename)
        elif event in _ELSEWHERE:
            self._unseen = self._unseen or _ELSEWHERE[event]

    def _add_file(self, path: Any, mode: Any, flags: Any) -> None:
        written_only = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) == os.O_WRONLY
        if isinstance(path, (str, bytes, os.PathLike)) and not written_only:
            absolute = os.path.abspath(os.fsdecode(path))
            if absolute != self._ignored and not absolute.startswith(_SYSTEM_FOLDERS):
                self._files.add(absolute)

    def _add_folder(self, path: Any, reader: str) -> None:
        # An open descriptor is listed where its folder was opened by path.
        if not isinstance(path, int) and not reader.startswith(_IMPORTERS):
            self._folders.add(os.path.abspath(os.fsdecode("." if path is None else path)))


def are_unchanged(record: FilesRead) -> bool:
    """True if every file and folder is as it was, and no read can have escaped."""
    checks: tuple[tuple[Mapping[str, str], Callable[[str], str]], ...] = (
        (record.files, state_of),
        (record.import_folders, _importable),
        (record.folders, _names),
        (record.sources, source_files.file_digest),
    )
    try:
        return not record.unseen and all(
            read(path) == before for states, read in checks for path, before in states.items()
        )
    except OSError:  # a source is gone
        return False


def state_of(path: str) -> str:
    """Size, times and inode of a file; empty for a missing one, and only the kind of a folder."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if os.path.isdir(path):
        return "folder"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _change_ns(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return 0 if os.path.isdir(path) else max(status.st_mtime_ns, status.st_ctime_ns)


def _is_in_package(path: str) -> bool:
    """True for the files of autobatch, which count by a digest of the whole package."""
    return (os.path.realpath(path) + os.sep).startswith(source_files.PACKAGE + os.sep)


def _names(folder: str) -> str:
    return _digest(_listed(folder))


def _has_called_operator(namespace: str, name: str) -> bool:
    """True if this process has called an operator of torch's, which keeps it as an attribute then."""
    operators = getattr(sys.modules.get("torch"), "ops", None)
    return operators is not None and name in vars(vars(operators).get(namespace, operators))


def _importable(folder: str) -> str:
    """The digest of the modules, packages and distributions in a folder. Other folders come and go."""
    return _digest(
        name
        for name in _listed(folder)
        if name.endswith(_IMPORT_SUFFIXES) or os.path.isfile(os.path.join(folder, name, "__init__.py"))
    )


def _listed(folder: str) -> list[str]:
    try:
        return sorted(set(os.listdir(folder)) - {"__pycache__"})
    except OSError:
        return []


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()[:32]


def _mapped_files() -> set[str]:
    """Files that this process has mapped into its memory, libraries aside; empty without /proc."""
    try:
        with open("/proc/self/maps", errors="surrogateescape") as maps:
            fields = [line.split(maxsplit=5) for line in maps]
    except OSError:
        return set()
    paths = {parts[5].strip() for parts in fields if len(parts) == 6}
    return {
        path
        for path in paths
        if path.startswith("/")
        and not path.startswith(_SYSTEM_FOLDERS)
        and ".so" not in path
        and os.path.isfile(path)
    }
