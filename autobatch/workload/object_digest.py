"""The digest of an object, the same in every process: its types, code, plain values and shapes.

Addresses, the order of sets and the `repr` of user classes don't count. Long containers are taken for data,
and count by their length alone. Tensors and arrays count by shape and dtype.
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
# Attributes that torch keeps in every module. Tensors and children are added apart, hooks don't count.
_KEPT_BY_TORCH = frozenset(vars(nn.Module()))
# Longer containers and texts are data. Deeper or later objects don't count: they would take seconds.
_LONGEST, _LONGEST_TEXT = 64, 400
_DEEPEST, _MOST_OBJECTS = 16, 50_000


class ObjectDigest:
    """A digest that grows with each object. `modules` collects the names of the modules of its code."""

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules
        self._hash = hashlib.sha256()
        # It keeps the objects, since the address of a deleted object may come again.
        self._met: dict[int, tuple[int, Any]] = {}
        self._classes: set[type] = set()

    def hexdigest(self) -> str:
        """The digest of all objects so far."""
        return self._hash.hexdigest()

    def add(self, value: Any, depth: int = 0) -> ObjectDigest:
        """Adds an object with everything that it holds; an object that comes again counts as such."""
        if type(value) in _PLAIN or isinstance(value, (_OF_TORCH, np.generic, PurePath)):
            self._feed(type(value).__name__, repr(value))
        elif isinstance(value, (str, bytes)):
            self._feed(type(value).__name__, _shortened(value))
        elif isinstance(value, Enum):
            self._feed("enum", type(value).__qualname__, value.name)
        elif isinstance(value, torch.Tensor):
            self._add_tensor(value)
        elif isinstance(value, np.ndarray):
            self._feed("array", str(value.dtype), str(value.shape))
        elif id(value) in self._met:
            self._feed("again", str(self._met[id(value)][0]))
        elif depth > _DEEPEST or len(self._met) > _MOST_OBJECTS:
            self._feed("more", type(value).__qualname__)
        else:
            self._met[id(value)] = len(self._met), value
            self._add_compound(value, depth + 1)
        return self

    def add_model(self, model: nn.Module, depth: int = 0) -> ObjectDigest:
        """Adds every module with its class and its plain settings, every parameter, and every buffer."""
        for name, module in model.named_modules():
            self._feed("module", name)
            self._add_class(type(module), depth + 1)
            self._add_attributes(module, depth + 1, _KEPT_BY_TORCH)
            if isinstance(module, torch.jit.ScriptModule):
                self._feed(str(getattr(module, "code", "")))
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._feed("parameter", name)
            self._add_tensor(parameter)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self._feed("buffer", name)
            self._add_tensor(buffer)
        return self

    def _feed(self, *words: str) -> None:
        for word in words:
            encoded = word.encode(errors="surrogatepass")
            self._hash.update(b"%d:" % len(encoded))
            self._hash.update(encoded)

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        shape = "lazy" if isinstance(tensor, _LAZY) else str(tuple(tensor.shape))
        self._feed("tensor", str(tensor.dtype), shape, str(tensor.requires_grad))

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
            self._feed("module", value.__name__)
        elif isinstance(value, dict):
            self._add_all("dict", (part for pair in value.items() for part in pair), depth, len(value))
        elif isinstance(value, _SEQUENCES):
            self._add_all(type(value).__name__, value, depth, len(value))
        elif isinstance(value, (set, frozenset)):
            self._add_set(value, depth)
        else:
            self._add_object(value, depth)

    def _add_all(self, kind: str, parts: Iterable[Any], depth: int, count: int = 0) -> None:
        self._feed(kind, str(count))
        if count <= _LONGEST:
            for part in parts:
                self.add(part, depth)

    def _add_set(self, values: set[Any] | frozenset[Any], depth: int) -> None:
        self._feed("set", str(len(values)))
        if len(values) <= _LONGEST:
            self._feed(*sorted(ObjectDigest(self._modules).add(value, depth).hexdigest() for value in values))

    def _add_function(self, function: types.FunctionType, depth: int) -> None:
        self._modules.add(function.__module__ or "")
        if not source_files.is_user_code(function.__module__):
            self._feed("function", function.__module__, function.__qualname__)
        else:
            self._add_code(function.__code__, depth)
            self._add_all("defaults", (function.__defaults__, function.__kwdefaults__), depth)
            names = function.__globals__
            used = sorted(name for name in _names(function.__code__) if name in names)
            self._add_all("globals", (part for name in used for part in (name, names[name])), depth)
        self._add_all("closure", map(_cell_content, function.__closure__ or ()), depth)

    def _add_code(self, code: types.CodeType, depth: int) -> None:
        self._feed("code", code.co_code.hex(), str(code.co_flags))
        self._feed(*code.co_names, *code.co_freevars)
        self._add_all("constants", code.co_consts, depth)

    def _add_class(self, cls: type, depth: int) -> None:
        self._modules.add(cls.__module__)
        self._feed("class", cls.__qualname__)
        if not source_files.is_user_code(cls.__module__):
            self._feed(cls.__module__)
            return
        # A class is reached through each of its objects.
        if cls in self._classes:
            return
        self._classes.add(cls)
        self._add_all("bases", cls.__bases__, depth)
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, _METHODS) or not name.startswith("__"):
                self._feed(name)
                self.add(member, depth)

    def _add_object(self, value: Any, depth: int) -> None:
        self._feed("object")
        self._add_class(type(value), depth)
        self.add(_attributes(value).get("__wrapped__"), depth)
        self._add_attributes(value, depth)

    def _add_attributes(self, value: Any, depth: int, without: frozenset[str] = frozenset()) -> None:
        """Adds all attributes of an object of the user's code, and the public ones of a library's."""
        is_user = source_files.is_user_code(type(value).__module__)
        for name, held in sorted(_attributes(value).items()):
            if name not in without and (is_user or not name.startswith("_")):
                self._feed(name)
                self.add(held, depth)


def _attributes(value: Any) -> dict[str, Any]:
    held_in = getattr(value, "__dict__", None)
    attributes = dict(held_in) if isinstance(held_in, dict) else {}
    if is_dataclass(value):
        # A dataclass with slots has no dict.
        attributes |= {
            name: getattr(value, name) for name in value.__dataclass_fields__ if hasattr(value, name)
        }
    return attributes


def _inside(value: Any) -> tuple[Any, ...]:
    """The functions and arguments inside a wrapper."""
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, property):
        return value.fget, value.fset
    return (value.__func__,)


def _names(code: types.CodeType) -> set[str]:
    """Every name that the code or a function in it may look up among its globals."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _cell_content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is still empty
        return None


def _shortened(text: str | bytes) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text if isinstance(text, str) else text.hex()
    encoded = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(encoded).hexdigest()
