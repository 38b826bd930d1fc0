"""Configs are frozen dataclasses; files hold values only. Unknown keys and wrong types are errors,
never ignored.

A field of several dataclasses is a tagged union: each of them has a field ``kind`` with a literal
of its own, and the value's ``kind`` says which one it is.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from fsm.errors import InputError

T = TypeVar("T")
S = TypeVar("S")


@dataclasses.dataclass(frozen=True)
class Partial(Generic[T]):
    """Values of some fields of dataclass T; fields without one stay as they are.

    In a file they stand beside the keys of the dataclass that holds them, and null is no value.
    """

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def applied(self, base: S) -> S:
        """``base``, a T, with these values."""
        return dataclasses.replace(base, **self.values)  # pyright: ignore[reportArgumentType]


def from_dict(kind: type[T], values: Any, where: str) -> T:
    """Build dataclass ``kind`` from plain values, recursively and strictly.

    ``where`` names the file or flag in errors. Missing keys take the dataclass's defaults; a key
    without default, an unknown key (nearest match suggested) and a value of the wrong type raise
    ``InputError``.
    """
    if not isinstance(values, dict):
        raise InputError(
            f"{where} should hold named values for {kind.__name__}, found {type(values).__name__}."
        )
    hints = typing.get_type_hints(kind)
    partial = {n: get_args(h)[0] for n, h in hints.items() if get_origin(h) is Partial}
    fields = {f.name: f for f in _fields(kind) if f.name not in partial}
    beside = {f.name: name for name, whole in partial.items() for f in _fields(whole)}
    known = [*fields, *beside]
    for key in values:
        if key not in known:
            hint = _nearest(key, known) or f"known keys: {', '.join(known)}."
            raise InputError(f"{where} has unknown key {key!r}; {hint}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise InputError(f"{where} lacks the required key {name!r}.")
    arguments: dict[str, Any] = {
        name: _convert(hints[name], value, f"{where}: {name}")
        for name, value in values.items()
        if name in fields
    }
    for name, whole in partial.items():
        types_of = typing.get_type_hints(whole)
        given = {k: v for k, v in values.items() if beside.get(k) == name and v is not None}
        arguments[name] = Partial(
            {k: _convert(types_of[k], v, f"{where}: {k}") for k, v in given.items()}
        )
    try:
        return kind(**arguments)
    except InputError as error:  # a value out of range: the dataclass knows the field, not the file
        raise InputError(f"{where}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a dataclass config, ready for JSON or YAML; the inverse of ``from_dict``."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            named = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
            values = {k: plain(v) for k, v in named.items() if not isinstance(v, Partial)}
            for part in named.values():
                values |= plain(dict(part.values)) if isinstance(part, Partial) else {}
            return values
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return value

    return plain(config)


def _fields(kind: type) -> "list[dataclasses.Field[Any]]":
    return [f for f in dataclasses.fields(kind) if f.init]


def _tag(kind: Any) -> str:
    """The literal that values of a dataclass have as their ``kind``."""
    return get_args(typing.get_type_hints(kind)["kind"])[0]


def _tagged(options: dict[str, Any], value: Any, where: str) -> Any:
    """The dataclass of a tagged union that ``value`` says it is."""
    kinds = f"choose one of {', '.join(map(repr, options))}."
    if not isinstance(value, dict):
        raise InputError(f"{where} is {value!r}, expected named values with a kind; {kinds}")
    if "kind" not in value:
        raise InputError(f"{where} lacks the key 'kind'; {kinds}")
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in options:
        raise InputError(f"{where} has kind {kind!r}; {_nearest(kind, list(options)) or kinds}")
    return from_dict(options[kind], value, where)


def _nearest(word: Any, known: list[str]) -> str:
    """A question for a likely typo; empty where none of the ``known`` words is near."""
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        if sum(map(dataclasses.is_dataclass, options)) > 1:
            return _tagged({_tag(option): option for option in options}, value, where)
        for i, option in enumerate(options):
            try:
                return _convert(option, value, where)
            except InputError:
                if i == len(options) - 1:
                    raise
    if origin is Literal:
        if value not in arguments:
            raise InputError(
                f"{where} is {value!r}; choose one of {', '.join(map(repr, arguments))}."
            )
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} is {value!r}, expected a list.")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(arguments):
            raise InputError(f"{where} has {len(value)} entries, expected {len(arguments)}.")
        return tuple(
            _convert(a, v, f"{where}[{i}]")
            for i, (a, v) in enumerate(zip(arguments, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where} is {value!r}, expected named values.")
        return {k: _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is hint:
        return value
    raise InputError(
        f"{where} is {value!r} ({type(value).__name__}), expected "
        f"{getattr(hint, '__name__', hint)}."
    )
