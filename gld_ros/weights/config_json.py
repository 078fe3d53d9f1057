"""Frozen dataclasses to and from JSON, strictly: every unknown, missing or mistyped field is named.

Owns the translation only. What the fields mean is decided where the dataclasses are defined.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from gld_ros.weights.errors import BundleError

Config = TypeVar("Config")


def config_to_json(value: Any) -> Any:
    """Plain JSON values of a config: dataclasses become objects, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: config_to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): config_to_json(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [config_to_json(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BundleError(f"a config cannot hold a {type(value).__name__}: {value!r}")


def config_from_json(cls: type[Config], data: Any, where: str) -> Config:
    """Build dataclass `cls` from parsed JSON.

    `where` names the place in error texts. Fields that have a default may be absent (that is how
    a format grows); all others must be there. Raises BundleError that names the field, the value
    given and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise BundleError(f"{where} must be a JSON object, got {_shown(data)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted((key for key in data if key not in fields), key=repr)
    if unknown:
        raise BundleError(
            f"{where} has unknown field(s) {', '.join(map(repr, unknown))}; "
            f"allowed: {', '.join(fields)}"
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in data
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BundleError(f"{where} lacks field(s) {', '.join(map(repr, missing))}")
    hints = typing.get_type_hints(cls)
    values = {name: _parse(hints[name], entry, f"{where}.{name}") for name, entry in data.items()}
    try:
        return cls(**values)
    except BundleError:
        raise
    except (ValueError, ArithmeticError, LookupError) as error:
        raise BundleError(f"{where} is not valid: {error}") from error


def _parse(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, data, where)
    if origin is Literal:
        if not any(data == allowed and type(data) is type(allowed) for allowed in arguments):
            raise BundleError(
                f"{where} must be one of {', '.join(map(repr, arguments))}, got {_shown(data)}"
            )
        return data
    if origin in (tuple, list, Sequence):
        return _parse_sequence(arguments, data, where)
    if origin in (dict, Mapping):
        if not isinstance(data, Mapping):
            raise BundleError(f"{where} must be a JSON object, got {_shown(data)}")
        return {key: _parse(arguments[1], entry, f"{where}.{key}") for key, entry in data.items()}
    if dataclasses.is_dataclass(hint):
        return config_from_json(typing.cast(type[Any], hint), data, where)
    return _parse_scalar(hint, data, where)


def _parse_union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in arguments:
        return None
    problems = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _parse(argument, data, where)
        except BundleError as error:
            problems.append(str(error))
    raise BundleError("; or ".join(problems))


def _parse_sequence(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise BundleError(f"{where} must be a list, got {_shown(data)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = arguments[:1]
    elif len(arguments) > 1:
        if len(data) != len(arguments):
            raise BundleError(f"{where} must have {len(arguments)} entries, got {_shown(data)}")
        return tuple(
            _parse(hint, entry, f"{where}[{i}]")
            for i, (hint, entry) in enumerate(zip(arguments, data, strict=True))
        )
    entry_hint = arguments[0] if arguments else Any
    return tuple(_parse(entry_hint, entry, f"{where}[{i}]") for i, entry in enumerate(data))


def _parse_scalar(hint: Any, data: Any, where: str) -> Any:
    if hint is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        try:
            value = float(data)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise BundleError(f"{where} must be finite, got {_shown(data)}")
        return value
    if hint in (int, str, bool) and type(data) is hint:
        return data
    name = getattr(hint, "__name__", str(hint))
    raise BundleError(f"{where} must be of type {name}, got {_shown(data)}")


def _shown(data: Any) -> str:
    try:
        text = repr(data)
    except ValueError:  # Python refuses to write integers of thousands of digits
        text = f"a huge {type(data).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
