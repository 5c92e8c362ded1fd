"""What an object is, as a digest that is the same in every process: types, code, plain values, shapes.

Addresses, the order of sets and an object's own `repr` have no part in it. What is long is taken for data,
and counts by its length alone; tensors and arrays count by shape and dtype.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections import deque
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

from autobatch.workload import source_files

_PLAIN = (type(None), bool, int, float, complex, type(...), range, slice)
_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_SEQUENCES = (list, tuple, deque)
_LAZY = (nn.UninitializedParameter, nn.UninitializedBuffer)
_METHODS = (types.FunctionType, staticmethod, classmethod, property)
# What torch itself keeps in every module: tensors and children come apart, hooks hold references only.
_KEPT_BY_TORCH = frozenset(vars(nn.Module()))
_LONGEST, _LONGEST_TEXT = 64, 400
_DEEPEST, _MOST_OBJECTS = 16, 50_000


class Outline:
    """A digest that grows by what is added; `modules` collects the names of those whose code was met."""

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules
        self._hash = hashlib.sha256()
        # With the objects themselves, since the address of one that is gone may come again.
        self._met: dict[int, tuple[int, Any]] = {}
        self._classes: set[type] = set()

    def digest(self) -> str:
        """Of all that was added so far."""
        return self._hash.hexdigest()

    def add(self, value: Any, depth: int = 0) -> Outline:
        """Adds an object with what it holds; what is met again counts as such. Returns itself."""
        if type(value) in _PLAIN or isinstance(value, (_OF_TORCH, np.generic, PurePath)):
            self._tell(type(value).__name__, repr(value))
        elif isinstance(value, (str, bytes)):
            self._tell(type(value).__name__, _shortened(value))
        elif isinstance(value, Enum):
            self._tell("enum", type(value).__qualname__, value.name)
        elif isinstance(value, torch.Tensor):
            self._add_tensor(value)
        elif isinstance(value, np.ndarray):
            self._tell("array", str(value.dtype), str(value.shape))
        elif id(value) in self._met:
            self._tell("again", str(self._met[id(value)][0]))
        elif depth > _DEEPEST or len(self._met) > _MOST_OBJECTS:
            self._tell("more", type(value).__qualname__)
        else:
            self._met[id(value)] = len(self._met), value
            self._add_compound(value, depth + 1)
        return self

    def add_model(self, model: nn.Module, depth: int = 0) -> Outline:
        """Adds every module with its class and its plain settings, every parameter, and every buffer."""
        for name, module in model.named_modules():
            self._tell("module", name)
            self._add_class(type(module), depth + 1)
            self._add_attributes(module, depth + 1, _KEPT_BY_TORCH)
            if isinstance(module, torch.jit.ScriptModule):
                self._tell(str(getattr(module, "code", "")))
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._tell("parameter", name)
            self._add_tensor(parameter)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self._tell("buffer", name)
            self._add_tensor(buffer)
        return self

    def _tell(self, *words: str) -> None:
        for word in words:
            encoded = word.encode(errors="surrogatepass")
            self._hash.update(b"%d:" % len(encoded))
            self._hash.update(encoded)

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        shape = "lazy" if isinstance(tensor, _LAZY) else str(tuple(tensor.shape))
        self._tell("tensor", str(tensor.dtype), shape, str(tensor.requires_grad))

    def _add_compound(self, value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            self.add_model(value, depth)
        elif isinstance(value, type):
            self._add_class(value, depth)
        elif isinstance(value, types.CodeType):
            self._add_code(value, depth)
        elif isinstance(value, types.FunctionType):
            self._add_function(value, depth)
        elif isinstance(value, (_METHODS, types.MethodType, functools.partial)):
            self._add_all("wrapper", _inside(value), depth)
        elif isinstance(value, types.ModuleType):
            self._tell("module", value.__name__)
        elif isinstance(value, dict):
            self._add_all("dict", (part for pair in value.items() for part in pair), depth, len(value))
        elif isinstance(value, _SEQUENCES):
            self._add_all(type(value).__name__, value, depth, len(value))
        elif isinstance(value, (set, frozenset)):
            self._add_set(value, depth)
        else:
            self._add_object(value, depth)

    def _add_all(self, kind: str, parts: Iterable[Any], depth: int, count: int = 0) -> None:
        self._tell(kind, str(count))
        if count <= _LONGEST:
            for part in parts:
                self.add(part, depth)

    def _add_set(self, values: set[Any] | frozenset[Any], depth: int) -> None:
        self._tell("set", str(len(values)))
        if len(values) <= _LONGEST:
            self._tell(*sorted(Outline(self._modules).add(one, depth).digest() for one in values))

    def _add_function(self, function: types.FunctionType, depth: int) -> None:
        self._modules.add(function.__module__ or "")
        if not source_files.is_own(function.__module__):
            self._tell("function", function.__module__, function.__qualname__)
        else:
            self._add_code(function.__code__, depth)
            self._add_all("defaults", (function.__defaults__, function.__kwdefaults__), depth)
            known = function.__globals__
            used = sorted(name for name in _names(function.__code__) if name in known)
            self._add_all("globals", (part for name in used for part in (name, known[name])), depth)
        self._add_all("closure", map(_cell_content, function.__closure__ or ()), depth)

    def _add_code(self, code: types.CodeType, depth: int) -> None:
        self._tell("code", code.co_code.hex(), str(code.co_flags))
        self._tell(*code.co_names, *code.co_freevars)
        self._add_all("constants", code.co_consts, depth)

    def _add_class(self, cls: type, depth: int) -> None:
        self._modules.add(cls.__module__)
        self._tell("class", cls.__qualname__)
        if not source_files.is_own(cls.__module__):
            self._tell(cls.__module__)
            return
        # A class may be met by way of its objects, again and again.
        if cls in self._classes:
            return
        self._classes.add(cls)
        self._add_all("bases", cls.__bases__, depth)
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, _METHODS) or not name.startswith("__"):
                self._tell(name)
                self.add(member, depth)

    def _add_object(self, value: Any, depth: int) -> None:
        self._tell("object")
        self._add_class(type(value), depth)
        self.add(_attributes(value).get("__wrapped__"), depth)
        self._add_attributes(value, depth)

    def _add_attributes(self, value: Any, depth: int, without: frozenset[str] = frozenset()) -> None:
        """Of the user's own objects all, of a library's those that are meant for others."""
        own = source_files.is_own(type(value).__module__)
        for name, held in sorted(_attributes(value).items()):
            if name not in without and (own or not name.startswith("_")):
                self._tell(name)
                self.add(held, depth)


def _attributes(value: Any) -> dict[str, Any]:
    held_in = getattr(value, "__dict__", None)
    found = dict(held_in) if isinstance(held_in, dict) else {}
    if is_dataclass(value):
        # Those with slots keep nothing in a dict.
        found |= {name: getattr(value, name) for name in value.__dataclass_fields__ if hasattr(value, name)}
    return found


def _inside(value: Any) -> tuple[Any, ...]:
    """What a wrapper of functions holds."""
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, property):
        return value.fget, value.fset
    return (value.__func__,)


def _names(code: types.CodeType) -> set[str]:
    """Every name that the code or a function in it may look up among its globals."""
    inner = (one for one in code.co_consts if isinstance(one, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _cell_content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing has been put into it yet
        return None


def _shortened(text: str | bytes) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text if isinstance(text, str) else text.hex()
    encoded = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(encoded).hexdigest()
