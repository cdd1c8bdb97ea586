"""Frozen dataclasses to and from plain mappings, with errors that name the key."""

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import yaml

from loopwm.errors import UsageError

Config = TypeVar("Config")


def build(kind: type[Config], values: Any, prefix: str = "") -> Config:
    """Builds a dataclass from a nested mapping.

    A field with a `registry` in its metadata takes the class that the mapping's `name` names. One
    with `members` in its metadata, a registry too, is a mapping whose entries are settings beside
    the other fields, each a dataclass by its registered name.

    Args:
        kind: the dataclass.
        values: mapping of its fields; missing ones keep their defaults.
        prefix: dotted path of the mapping, for messages.

    Returns:
        The instance.

    Raises:
        UsageError: unknown key (the nearest valid one is named) or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        where = prefix.rstrip(".") or "The configuration"
        raise UsageError(f"{where} is {values!r}, but it needs a mapping of settings.")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    hints = typing.get_type_hints(kind)
    many = next((name for name, field in fields.items() if "members" in field.metadata), None)
    members = {} if many is None else fields[many].metadata["members"]
    known = [name for name in (*fields, *members) if name != many]
    for key in values:
        if isinstance(key, str) and "." in key:
            nested = key.replace(".", ": {") + ": …" + "}" * key.count(".")
            raise UsageError(f"No setting is named '{key}'; use one mapping in another, {nested}.")
        if key not in known:
            raise UsageError(_unknown(f"{prefix}{key}", [f"{prefix}{name}" for name in known]))
    given: dict[str, Any] = {} if many is None else {many: {}}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key in members:
            given[str(many)][key] = build(members[key], value, path + ".")
            continue
        registry = fields[key].metadata.get("registry")
        if registry is not None:
            given[key] = _build_registered(registry, value, path)
        elif dataclasses.is_dataclass(hints[key]):
            given[key] = build(hints[key], value, path + ".")
        else:
            given[key] = _coerce(hints[key], value, path)
    return kind(**given)


def dump(config: Any, registries: bool = True) -> dict[str, Any]:
    """The nested mapping that `build` turns back into the same instance."""
    result = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "members" in field.metadata:
            result.update({name: dump(member) for name, member in value.items()})
            continue
        if not dataclasses.is_dataclass(value):
            result[field.name] = _plain_value(value)
            continue
        result[field.name] = dump(value)
        registry = field.metadata.get("registry")
        if registry is not None and registries:
            name = next(key for key, kind in registry.items() if kind is type(value))
            result[field.name] = {"name": name, **result[field.name]}
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with `over` laid upon `base`; neither is changed.

    Where both name a registered class, and not the same, the settings of the other one are dropped.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            another = {"name"} <= value.keys() & below.keys() and value["name"] != below["name"]
            merged[key] = dict(value) if another else merge(below, value)
        else:
            merged[key] = value
    return merged


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Nested mapping of `a.b=value` pairs; values are read as YAML.

    Raises:
        UsageError: a pair has no equals sign, or its value is not YAML.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set {pair!r} is not key=value; write e.g. learner.batch_size=64.")
        try:
            value = yaml.safe_load(text)
        # A date that does not exist, or too many digits, is a plain ValueError.
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"--set {key}: {text!r} is not a plain value; quote it.") from error
        nested: Any = value
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        result = merge(result, nested)
    return result


def _plain_value(value: Any) -> Any:
    """A value that YAML and JSON know: an enumeration's value, a list for a tuple."""
    if isinstance(value, enum.Enum):
        return value.value
    return [_plain_value(entry) for entry in value] if isinstance(value, tuple) else value


def _build_registered(registry: Mapping[str, type], values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(
            f"{path} is {values!r}, but it needs a mapping of settings; choose with {path}.name."
        )
    rest = dict(values)
    name = rest.pop("name", next(iter(registry)))
    if not isinstance(name, str) or name not in registry:
        valid = [f"{path}.name={key}" for key in registry]
        raise UsageError(_unknown(f"{path}.name={name}", valid))
    return build(registry[name], rest, path + ".")


def _unknown(key: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    nearest = f"; did you mean '{near[0]}'?" if near else "."
    return f"There is no setting '{key}'{nearest}"


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """Checks a plain value against its type; an integer is taken for a float."""
    allowed = _members(hint)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(hint, enum.EnumType):
        return _choose(hint, value, path)
    if value is None and type(None) in allowed:
        return None
    if isinstance(value, bool):
        if bool in allowed:
            return value
    elif isinstance(value, int) and int in allowed:
        return value
    elif isinstance(value, int | float | str) and float in allowed:
        # YAML 1.1 reads 1e-3 as text. Integers may be too large, and NaN is no number.
        try:
            if not math.isnan(number := float(value)):
                return number
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, str) and str in allowed:
        return value
    for kind in allowed:
        if typing.get_origin(kind) is tuple:
            try:
                return _coerce_tuple(kind, value, path)
            except UsageError:
                pass  # the sentence below names the whole setting
    names = " or ".join(_type_name(kind) for kind in allowed)
    raise UsageError(f"{path} is {value!r}, but it needs {names}; correct it.")


def _coerce_tuple(kind: Any, value: Any, path: str) -> tuple[Any, ...]:
    """A tuple from a YAML list, from its entries with commas between them, or from one entry."""
    if isinstance(value, str):
        value = [_plain(text) for text in value.removesuffix(",").split(",")]
    entries = list(value) if isinstance(value, list | tuple) else [value]
    hints = typing.get_args(kind)
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(entries)
    if len(hints) != len(entries):
        raise UsageError(f"{path} has {len(entries)} entries; give {len(hints)}.")
    return tuple(_coerce(hint, entry, path) for hint, entry in zip(hints, entries, strict=True))


def _plain(text: str) -> Any:
    """A value as YAML reads it; the text itself where it does not."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _choose(kind: enum.EnumType, value: Any, path: str) -> Any:
    """The member of an enumeration with that value."""
    names = [str(member.value) for member in kind]  # pyright: ignore[reportAttributeAccessIssue]
    if value not in names:
        raise UsageError(f"{path} is {value!r}; give one of {', '.join(names)}.")
    return kind(value)


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        *entries, last = typing.get_args(kind)
        if last is Ellipsis:
            return f"a list in which every entry is {_type_name(entries[0])}"
        return f"a list of {', '.join(map(_type_name, (*entries, last)))}"
    return {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "nothing (null)",
    }.get(kind, str(kind))
