"""A name and a hash of an object that a program gave, which show a resumed run that it is another one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any, Final

import numpy as np

_MAX_DEPTH: Final = 6
_WRITTEN: Final = (bool, int, float, complex, str, range, PurePath, dt.date, dt.time, dt.timedelta)
"""Values that cannot change and whose text holds all of them."""

_Description = tuple[str, object, tuple[object, ...]]
"""The kind of a value, its own content (text or bytes), and the values that it consists of."""


def name_of(value: object) -> str:
    """The module and the qualified name that define an object, or its class."""
    if isinstance(value, functools.partial):
        return name_of(value.func)
    if isinstance(value, MethodType):
        return f"{name_of(value.__self__)}.{value.__name__}"
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def fingerprint(value: object) -> str:
    """16 hex digits that differ for objects that compute something else, as far as that can be seen.

    A function is its source, or its bytecode where there is no source, with its defaults and the values that it
    closes over. An object is the source of its class and those of its public fields that cannot change while it is
    used: numbers, text, tuples, functions and frozen dataclasses, for instance, but no lists, mappings or arrays. An
    object with a method `fingerprint()` of its own is what that returns.
    """
    digest = hashlib.sha256()
    _absorb(digest, value, _MAX_DEPTH)
    return digest.hexdigest()[:16]


def _absorb(digest: Any, value: object, depth: int) -> None:
    """Feed a value into the digest: every part under its kind, with its length."""
    kind, content, parts = _describe(value)
    data = content if isinstance(content, bytes) else str(content).encode()
    digest.update(f"{kind} {len(data)} {len(parts)}\n".encode() + data)
    for part in parts:
        if depth:
            _absorb(digest, part, depth - 1)
        else:
            digest.update(name_of(part).encode())


def _describe(value: object) -> _Description:
    own = None if isinstance(value, type) else getattr(value, "fingerprint", None)
    if callable(own):
        return "own", own(), ()
    return _plain(value) or _container(value) or _callable(value) or _object(value)


def _plain(value: object) -> _Description | None:
    if isinstance(value, bytes):
        return "bytes", value, ()
    if isinstance(value, enum.Enum):
        return f"enum {name_of(type(value))}", value.name, (value.value,)
    if value is None or isinstance(value, _WRITTEN):
        return type(value).__name__, repr(value), ()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        return f"array {array.dtype.str} {array.shape}", b"" if array.dtype.hasobject else array.tobytes(), ()
    return None


def _container(value: object) -> _Description | None:
    if isinstance(value, Mapping):
        return "mapping", "", tuple(part for key in sorted(value, key=repr) for part in (key, value[key]))
    if isinstance(value, AbstractSet):
        return "set", "", tuple(sorted(value, key=repr))
    return ("list", "", tuple(value)) if isinstance(value, (list, tuple)) else None


def _callable(value: object) -> _Description | None:
    if isinstance(value, functools.partial):
        return "partial", "", (value.func, value.args, value.keywords)
    if isinstance(value, MethodType):
        return "method", "", (value.__func__, value.__self__)
    if isinstance(value, FunctionType):
        closed = tuple(cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        code = _source(value) or _bytecode(value.__code__)
        if code.count("lambda") > 1:  # the source is a whole line, which may hold several of them
            code += _bytecode(value.__code__)
        return f"function {name_of(value)}", code, (value.__defaults__, value.__kwdefaults__, closed)
    if isinstance(value, (type, BuiltinFunctionType)):
        return f"class {name_of(value)}", (isinstance(value, type) and _source(value)) or "", ()
    return None


def _object(value: object) -> _Description:
    if hasattr(value, "state_dict"):  # a network, whose state changes while it is trained: its architecture
        return "network", repr(value), ()
    fields = sorted(_public_fields(value).items())
    return "object", ",".join(name for name, _ in fields), (type(value), *(item for _, item in fields))


def _public_fields(value: object) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    slots = {name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ()))}
    fields = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    return {name: item for name, item in fields.items() if not name.startswith("_") and _is_fixed(item)}


def _names(slots: str | Iterable[str]) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_fixed(value: object) -> bool:
    """True for a value of a kind that cannot change, so it is a setting and nothing that an object remembers."""
    if dataclasses.is_dataclass(value):
        return isinstance(value, type) or bool(type(value).__dataclass_params__.frozen)  # type: ignore[attr-defined]
    fixed = (*_WRITTEN, bytes, tuple, frozenset, type(None), np.generic, enum.Enum, FunctionType, functools.partial)
    return isinstance(value, fixed)


def _source(value: Any) -> str | None:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return None


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(item) if isinstance(item, CodeType) else _constant(item) for item in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not ...
    except ValueError:  # a name that is not bound yet
        return False
