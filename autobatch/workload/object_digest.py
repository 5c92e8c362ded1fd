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
_BUILT_IN = (
    types.BuiltinFunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)
_LAZY = (nn.UninitializedParameter, nn.UninitializedBuffer)
_METHODS = (types.FunctionType, staticmethod, classmethod, property)
# Attributes that torch keeps in every module. Tensors and children are added apart, hooks don't count.
_KEPT_BY_TORCH = frozenset(vars(nn.Module()))
# Longer containers and texts are data. Deeper or later objects don't count: they would take seconds.
_LONGEST, _LONGEST_TEXT = 64, 400
_DEEPEST, _MOST_OBJECTS = 16, 50_000
# More data than this takes longer to digest than a worker takes to start.
_MOST_CONTENT_BYTES = 512 << 20


class _Plain:
    """A class in Python, without slots."""


# Bytes of an object with attributes alone.
_PLAIN_SIZE = _Plain.__basicsize__


class TooMuchError(Exception):
    """An object holds more than a whole digest covers, or something that it can't see into."""


class ObjectDigest:
    """A digest that grows with each object. `modules` collects the names of the modules of its code.

    A `whole` digest counts data by content, except for the tensors of models. It raises TooMuchError where it
    would leave something out.
    """

    def __init__(self, modules: set[str], *, whole: bool = False) -> None:
        self._modules = modules
        self._whole = whole
        self._content_bytes = 0
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
            self.add_shape(value)
            if self._whole:
                self._add_content(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(value, np.ndarray):
            self._feed("array", str(value.dtype), str(value.shape))
            if self._whole:
                self._add_content(value)
        elif id(value) in self._met:
            self._feed("again", str(self._met[id(value)][0]))
        elif depth > _DEEPEST or len(self._met) > _MOST_OBJECTS:
            self._leave_out("more", type(value).__qualname__)
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
            self.add_shape(parameter)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self._feed("buffer", name)
            self.add_shape(buffer)
        return self

    def _feed(self, *words: str) -> None:
        for word in words:
            encoded = word.encode(errors="surrogatepass")
            self._hash.update(b"%d:" % len(encoded))
            self._hash.update(encoded)

    def _leave_out(self, *words: str) -> None:
        """Adds an object by its name alone. Raises TooMuchError in a whole digest."""
        if self._whole:
            raise TooMuchError(words[-1])
        self._feed(*words)

    def _add_content(self, values: np.ndarray[Any, Any]) -> None:
        """Adds the bytes of an array. Raises TooMuchError for too many, and for objects."""
        self._content_bytes += values.nbytes
        if self._content_bytes > _MOST_CONTENT_BYTES or values.dtype.hasobject:
            raise TooMuchError("data")
        self._hash.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def add_shape(self, tensor: torch.Tensor) -> ObjectDigest:
        """Adds the shape and the dtype of a tensor, and whether it is trained."""
        shape = "lazy" if isinstance(tensor, _LAZY) else str(tuple(tensor.shape))
        self._feed("tensor", str(tensor.dtype), shape, str(tensor.requires_grad))
        return self

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
        elif isinstance(value, _BUILT_IN):
            self._feed("built-in", value.__qualname__)
            self.add(getattr(value, "__self__", None), depth)
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
        if count <= _LONGEST or self._whole:
            for part in parts:
                self.add(part, depth)

    def _add_set(self, values: set[Any] | frozenset[Any], depth: int) -> None:
        self._feed("set", str(len(values)))
        if len(values) <= _LONGEST or self._whole:
            digests = (ObjectDigest(self._modules, whole=self._whole).add(value, depth) for value in values)
            self._feed(*sorted(digest.hexdigest() for digest in digests))

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
            if isinstance(member, _METHODS) or not name.startswith(("__", "_abc_impl")):
                self._feed(name)
                self.add(member, depth)

    def _add_object(self, value: Any, depth: int) -> None:
        self._feed("object")
        self._add_class(type(value), depth)
        if self._whole and not _is_transparent(value):
            raise TooMuchError(type(value).__qualname__)
        self.add(_attributes(value).get("__wrapped__"), depth)
        self._add_attributes(value, depth)

    def _add_attributes(self, value: Any, depth: int, without: frozenset[str] = frozenset()) -> None:
        """Adds all attributes of an object of the user's code, and the public ones of a library's."""
        is_user = source_files.is_user_code(type(value).__module__)
        for name, held in sorted(_attributes(value).items()):
            if name not in without and (is_user or self._whole or not name.startswith("_")):
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


def _is_transparent(value: Any) -> bool:
    """True where all that an object holds is in its attributes: a class in C has fields of its own."""
    kind = type(value)
    is_plain = hasattr(value, "__dict__") and kind.__basicsize__ <= _PLAIN_SIZE and not kind.__itemsize__
    return kind is object or is_plain or is_dataclass(value)


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
