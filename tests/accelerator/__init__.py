"""Builds the accelerator of the tests, `testdev`, from device.cpp: once for each source and torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("device.cpp")

# Optimized, it would take longer to build and run no faster: the work is done by PyTorch's CPU kernels.
FLAGS = ("-std=c++20", "-O0", "-fPIC", "-shared")
LIBRARIES = ("-ltorch", "-ltorch_cpu", "-lc10")


def compiler() -> str | None:
    """The C++ compiler: the one that CXX names, or the first of g++ and clang++; None without one."""
    if sys.platform == "win32":  # device.cpp is written for POSIX
        return None
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    return next(filter(None, map(shutil.which, names)), None)


def missing() -> str:
    """The reason why `testdev` can't be built here; empty where it can be."""
    if not hasattr(torch.accelerator, "memory_stats"):
        return f"`testdev` needs the allocator of torch 2.9; this is {torch.__version__}"
    return "" if compiler() else "`testdev` needs a C++ compiler"


def built_library() -> Path:
    """The shared library of device.cpp, which the first call builds (about 12 s of processor time).

    Processes that ask at the same time wait for the first.

    It lies in the folder that AUTOBATCH_TEST_BUILD names, or in `.cache/` of this tree. Raises
    RuntimeError with what the compiler said where it can't be built.
    """
    folder = Path(os.environ.get("AUTOBATCH_TEST_BUILD") or ROOT / ".cache" / "testdev")
    library = folder / f"testdev-{_key()}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(library.with_suffix(".lock")):
        if not library.exists():
            # Built under another name and then renamed: a reader without the lock sees all of it or none.
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                unfinished = Path(scratch) / library.name
                _build(unfinished)
                unfinished.replace(library)
    return library


def model_preamble(limit_bytes: int | None = None) -> str:
    """The lines that a model file under test starts with, so that any process that runs it has `testdev`."""
    return (
        f"import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.accelerator import testdev\n"
        f"testdev.register({limit_bytes!r})\n"
    )


def _key() -> str:
    facts = (SOURCE.read_text(), torch.__version__, *FLAGS, *LIBRARIES, str(compiler()))
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _build(library: Path) -> None:
    found = compiler()
    if found is None:
        raise RuntimeError("`testdev` needs a C++ compiler: none of $CXX, g++ and clang++ is there")
    torch_root = Path(torch.__file__).parent
    include, lib = torch_root / "include", torch_root / "lib"
    command = [found, *FLAGS, f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    command += [str(SOURCE), "-o", str(library), f"-L{lib}", *LIBRARIES, f"-Wl,-rpath,{lib}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`testdev` can't be built: {' '.join(command)}\n{done.stderr}")
