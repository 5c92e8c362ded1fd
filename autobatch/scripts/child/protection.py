"""Keeps a measured command from changing files: writes go to an overlay that is deleted afterwards.

Inside the process a file written this way can be read, renamed and removed like any other. New folders are
made for real and stay empty. Their list lets the measuring process remove them. Removing or renaming a file
that existed before ends the measurement: it can be neither done nor pretended.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import socket
import stat
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from .reads import Reads

# No files of the user: devices, the system's state, shared memory.
_OPEN_TO_ALL = ("/dev/", "/proc/", "/sys/", "/run/")
FOLDERS = "folders.jsonl"


class Protection:
    """The overlay of one process, in a folder that all processes of the command share."""

    def __init__(self, scratch: str, socket_path: str) -> None:
        self._scratch = os.path.realpath(scratch)
        self._socket_path = socket_path
        self._overlay = os.path.join(self._scratch, "overlay")
        self._original = {name: getattr(os, name) for name in _NAMES if hasattr(os, name)}
        self._open, self._os_open = builtins.open, os.open
        self._reads = Reads(self._scratch)

    def install(self) -> None:
        builtins.open = io.open = self.open
        os.open = self.os_open
        sys.meta_path.append(_OverlayFinder(self))
        for name in self._original:
            setattr(os, name, getattr(self, name))
        os.unlink = self.remove

    # Where a path leads

    def _absolute(self, path: Any, folder: Any = None) -> str:
        name = os.fsdecode(path)
        if folder is not None and not os.path.isabs(name):
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        return os.path.abspath(name)

    def _is_free(self, path: str) -> bool:
        """True for a path that may be written to as it is."""
        return path.startswith((self._scratch + os.sep, *_OPEN_TO_ALL))

    def _shadow(self, path: str) -> str:
        """The file of the overlay that stands for `path`."""
        return self._overlay + path

    def _shadowed(self, path: Any, folder: Any = None) -> Any:
        """The file to read in the place of `path`: that of the overlay where there is one."""
        if isinstance(path, int):
            return path
        return self.shadow_of(self._absolute(path, folder)) or path

    def shadow_of(self, path: str) -> str | None:
        """The file or folder of the overlay that stands for an absolute path; None where there is none."""
        shadow = self._shadow(path)
        return shadow if self._exists(shadow) else None

    def _exists(self, path: str) -> bool:
        try:
            self._original["lstat"](path)
        except OSError:
            return False
        return True

    def writable(self, path: Any, folder: Any = None, *, keep: bool = True) -> Any:
        """The file to write to in the place of `path`; `keep`: with the bytes that it has by now."""
        if isinstance(path, int):
            return path
        absolute = self._absolute(path, folder)
        # A write into a folder that is not there has to fail as it would.
        if self._is_free(absolute) or not self._exists(os.path.dirname(absolute)):
            return path
        if self._exists(absolute) and stat.S_ISFIFO(self._original["stat"](absolute).st_mode):
            return path
        shadow = self._shadow(absolute)
        self._make_folders(os.path.dirname(shadow))
        if keep and not self._exists(shadow) and self._exists(absolute):
            with self._open(absolute, "rb") as old, self._open(shadow, "wb") as new:
                while block := old.read(1 << 20):
                    new.write(block)
        return shadow

    def _make_folders(self, path: str) -> None:
        if not self._exists(path):
            self._make_folders(os.path.dirname(path))
            try:
                self._original["mkdir"](path)
            except FileExistsError:
                return

    def _refuse(self, what: str, path: str) -> None:
        """End the process: the file existed before the measurement, or cannot be redirected."""
        line = json.dumps({"event": "touches_file", "pid": os.getpid(), "what": what, "path": path})
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(self._socket_path)
            link.sendall(line.encode() + b"\n")
        os._exit(1)

    # Replacements for functions of builtins and os

    def open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            if "x" in mode and not isinstance(file, int) and self._exists(self._absolute(file)):
                raise FileExistsError(17, "File exists", file)
            file = self.writable(file, keep="w" not in mode)
        else:
            file = self._to_read(file)
        return self._open(file, mode, *args, **kwargs)

    def _to_read(self, path: Any, folder: Any = None) -> Any:
        """The file to read in the place of `path`, noted where it is one of the user's."""
        shadow = self._shadowed(path, folder)
        if shadow is path and not isinstance(path, int):
            absolute = self._absolute(path, folder)
            if not self._is_free(absolute):
                self._reads.note(absolute)
        return shadow

    def os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            shadow = self.writable(path, dir_fd)
        else:
            shadow = self._to_read(path, dir_fd)
        return self._os_open(shadow, flags, mode, dir_fd=None if shadow is not path else dir_fd)

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        shadow = self._shadowed(path, dir_fd)
        if shadow is not path:
            return self._original["stat"](shadow)
        return self._original["stat"](path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def lstat(self, path: Any, *, dir_fd: int | None = None) -> Any:
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        absolute = self._absolute(path, dir_fd)
        if not self._is_free(absolute) and not self._exists(absolute):
            parent = os.path.dirname(absolute)
            try:
                before = self._original["stat"](parent).st_mtime_ns
            except FileNotFoundError:
                before = 0
            line = json.dumps({"folder": absolute, "parent_mtime_ns": before}) + "\n"
            with self._open(os.path.join(self._scratch, FOLDERS), "a") as file:
                file.write(line)
        self._original["mkdir"](path, mode, dir_fd=dir_fd)

    def remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        absolute = self._absolute(path, dir_fd)
        shadow = self._shadow(absolute)
        if self._is_free(absolute):
            self._original["remove"](path, dir_fd=dir_fd)
        elif self._exists(shadow) and not self._exists(absolute):
            self._original["remove"](shadow)
        elif not self._exists(absolute):
            self._original["remove"](path, dir_fd=dir_fd)  # raises as it would
        else:
            self._refuse("removes", absolute)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        absolute = self._absolute(path, dir_fd)
        if self._is_free(absolute) or not self._exists(absolute) or self._is_new_folder(absolute):
            self._original["rmdir"](path, dir_fd=dir_fd)
        else:
            self._refuse("removes", absolute)

    def _is_new_folder(self, path: str) -> bool:
        try:
            with self._open(os.path.join(self._scratch, FOLDERS)) as lines:
                return any(json.loads(line)["folder"] == path for line in lines)
        except FileNotFoundError:
            return False

    def rename(
        self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        source, target = self._absolute(src, src_dir_fd), self._absolute(dst, dst_dir_fd)
        shadow = self._shadow(source)
        if self._exists(shadow):
            source = shadow
        elif not self._is_free(source) and self._exists(source):
            self._refuse("renames", source)
        if not self._is_free(target):
            target = self._shadow(target)
            self._make_folders(os.path.dirname(target))
        self._original["replace"](source, target)

    def replace(self, src: Any, dst: Any, **folders: Any) -> None:
        self.rename(src, dst, **folders)

    def truncate(self, path: Any, length: int) -> None:
        self._original["truncate"](self.writable(path), length)

    def link(self, src: Any, dst: Any, **kwargs: Any) -> None:
        self._link("link", self._shadowed(src), dst, **kwargs)

    def symlink(self, src: Any, dst: Any, *args: Any, **kwargs: Any) -> None:
        self._link("symlink", src, dst, *args, **kwargs)

    def _link(self, name: str, src: Any, dst: Any, *args: Any, **kwargs: Any) -> None:
        absolute = self._absolute(dst)
        if self._is_free(absolute):
            self._original[name](src, dst, *args, **kwargs)
        elif self._exists(absolute):
            raise FileExistsError(17, "File exists", dst)
        else:
            self._make_folders(os.path.dirname(self._shadow(absolute)))
            self._original[name](src, self._shadow(absolute), *args, **kwargs)

    def chmod(self, path: Any, mode: int, **kwargs: Any) -> None:
        self._change("chmod", path, mode, **kwargs)

    def utime(self, path: Any, *args: Any, **kwargs: Any) -> None:
        self._change("utime", path, *args, **kwargs)

    def _change(self, name: str, path: Any, *args: Any, **kwargs: Any) -> None:
        """Change attributes of a file of the overlay; those of others stay, and nobody misses it."""
        shadow = self._shadowed(path, kwargs.get("dir_fd"))
        if shadow is not path:
            kwargs.pop("dir_fd", None)
            self._original[name](shadow, *args, **kwargs)
        elif isinstance(path, int) or self._is_free(self._absolute(path)):
            self._original[name](path, *args, **kwargs)


class _OverlayFinder:
    """Finds modules that the script has written by itself, in the overlay. It comes after all finders."""

    def __init__(self, protection: Protection) -> None:
        self._protection = protection

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folders = [os.path.abspath(folder) for folder in (sys.path if path is None else path)]
        shadows = [shadow for folder in folders if (shadow := self._protection.shadow_of(folder))]
        return PathFinder.find_spec(name, shadows, target) if shadows else None


_NAMES = (
    "stat",
    "lstat",
    "mkdir",
    "remove",
    "rmdir",
    "rename",
    "replace",
    "truncate",
    "link",
    "symlink",
    "chmod",
    "utime",
)


def install(scratch: str, socket_path: str) -> Protection:
    """Redirect writes of this process to `scratch`/overlay."""
    protection = Protection(scratch, socket_path)
    protection.install()
    return protection
