"""The decorator that makes a section: a frozen, checked dataclass whose errors are this project's own sentences."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar, cast, dataclass_transform

import numpy as np
import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ErrorDetails

from privfl.errors import ConfigError

_T = TypeVar("_T")
_MAX_EXACT_INT: Final = 1 << 53  # above it, an integer would silently become another number
_MAX_SHOWN: Final = 60
_RULES: Final = pydantic.ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
_KINDS: Final[Mapping[str, str]] = {
    "int_type": "an integer",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
}
_LIMITS: Final[Mapping[str, str]] = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}


def _exact(value: Any) -> Any:
    if type(value) is int and abs(value) > _MAX_EXACT_INT:
        raise ValueError("must be a finite number that floating point holds exactly")
    return value


Number = Annotated[float, pydantic.BeforeValidator(_exact)]
"""A finite float; an integer is taken where it keeps its value."""


def setting(
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Callable[[], Any] | None = None,
    description: str,
    **limits: Any,
) -> Any:
    """A field of a section: its default, what it means, and its limits (`ge`, `gt`, `le`, `lt`).

    Args:
        default: The value of a section that does not name the field; None where absence has a meaning.
        default_factory: Makes the default, for values that cannot be shared.
        description: Whole sentences: unit, range and what the default means. Editors, the JSON Schema and the
            configuration reference show them.
        limits: Bounds of a number.

    Returns:
        The field's marker, which `section` reads.
    """
    if default_factory is not None:
        return pydantic.Field(default_factory=default_factory, description=description)
    return pydantic.Field(default=default, description=description, **limits)


@dataclass_transform(frozen_default=True, field_specifiers=(setting,))
def section(name: str) -> Callable[[type[_T]], type[_T]]:
    """Make a class a section that is checked when it is constructed.

    Fields are strict (no text for a number, no number for a truth value) and finite. Numpy scalars, arrays and lists
    are taken as the Python values that they hold.

    Args:
        name: The section's name in a TOML file, which starts every key in an error; "" for the top level.

    Returns:
        A decorator. The class that it makes raises `ConfigError` for a value that is not allowed.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        made: Any = pydantic_dataclass(frozen=True, config=_RULES)(cls)
        validated = made.__init__

        @functools.wraps(validated)
        def construct(self: Any, *args: Any, **settings: Any) -> None:
            try:
                validated(self, *map(_plain, args), **{key: _plain(value) for key, value in settings.items()})
            except pydantic.ValidationError as error:
                sentences = (_sentence(name, made, fault) for fault in error.errors(include_url=False))
                raise ConfigError("; ".join(dict.fromkeys(sentences))) from None

        made.__init__ = construct
        made.__doc__ = f"{cls.__doc__}\n\nAttributes:\n" + "\n".join(
            f"    {key}: {text}" for key, text in descriptions(made).items()
        )
        return cast("type[_T]", made)

    return decorate


def descriptions(of: type) -> dict[str, str]:
    """The description of each field of a section, in the order of the fields."""
    return {key: str(info.description) for key, info in _fields(of).items()}


def json_schema_of(of: type) -> dict[str, Any]:
    """The JSON Schema of a section, with the sections that it holds under `$defs`."""
    return pydantic.TypeAdapter(of).json_schema()


def _fields(of: type) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = of.__pydantic_fields__  # type: ignore[attr-defined]
    return fields


def _plain(value: Any) -> Any:
    """Numpy's scalars and arrays as Python values, and lists as tuples."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _sentence(name: str, of: type, error: ErrorDetails) -> str:
    """One fault as key, what is allowed, and the value found."""
    kind, value, known = error["type"], error["input"], list(_fields(of))
    prefix, (first, *rest) = f"{name}." if name else "", error["loc"]
    if isinstance(first, int) and first < len(known):  # given by position
        first = known[first]
    key = f"{prefix}{first}" + "".join(f"[{at}]" for at in rest)
    if kind == "unexpected_keyword_argument":
        close = difflib.get_close_matches(str(first), known, 1)
        meant = f"; did you mean {prefix}{close[0]}?" if close else ""
        return f"unknown key {key!r}; allowed: {', '.join(sorted(known))}{meant}"
    if kind == "unexpected_positional_argument":
        return f"{of.__name__} takes {len(known)} values by position: name them, as in {known[0]}=..."
    limits = _limits(of, str(first)) or {
        limit: error["ctx"][limit] for limit in _LIMITS if limit in error.get("ctx", {})
    }
    if kind == "value_error":
        allowed = str(error["ctx"]["error"]).removeprefix("must be ")
    elif kind == "literal_error":
        *others, last = error["ctx"]["expected"].split(" or ")
        allowed = "one of " + ", ".join([*others, last])
    elif kind in ("dataclass_type", "dataclass_exact_type"):
        allowed = f"a section {error['ctx']['class_name']}(...)"
    elif kind in _KINDS:
        allowed = _KINDS[kind]
    elif {"gt", "ge"} & limits.keys() and {"lt", "le"} & limits.keys():
        left, low = ("[", limits["ge"]) if "ge" in limits else ("(", limits["gt"])
        right, high = ("]", limits["le"]) if "le" in limits else (")", limits["lt"])
        allowed = f"in {left}{low:g}, {high:g}{right}"
    elif limits:
        allowed = " and ".join(f"{_LIMITS[limit]} {bound:g}" for limit, bound in limits.items())
    else:
        return f"{key}: {error['msg']}"
    hint = "; write it without quotes" if kind in ("int_type", "float_type") and _is_number(value) else ""
    return f"{key} must be {allowed}, not {shown(value)}{hint}"


def _limits(of: type, key: str) -> dict[str, float]:
    """The bounds of a field, from the markers that pydantic keeps."""
    info = _fields(of).get(key)
    found: dict[str, float] = {}
    for marker in () if info is None else info.metadata:
        found |= {limit: getattr(marker, limit) for limit in _LIMITS if getattr(marker, limit, None) is not None}
    return found


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False


def shown(value: Any) -> str:
    """A setting as an error may show it: short plain values only, never somebody's data."""
    if isinstance(value, (str, int, float, bool, type(None))):
        text = repr(value)
        return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    if isinstance(value, Sequence) and len(value) <= 4 and all(isinstance(item, (str, int, float)) for item in value):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"a {type(value).__name__}"
