"""What the package's code is at this moment, changes made while running included."""

import dataclasses
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Iterator

LIBRARIES = frozenset({"builtins", "equinox", "functools", "jax", "jaxlib", "jaxtyping"})
"""Libraries whose version says what their code is; `optax` and `numpy` as well."""
LIBRARIES |= {"optax", "numpy", "typing", "collections", "enum", "dataclasses", "abc", "math"}

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))


class Foreign(Exception):
    """Something comes from outside the package and its libraries, so its code is not known."""


def library_of(value: object) -> str:
    """The top-level package that a function or class says it is from; "" where it says none."""
    return str(getattr(value, "__module__", None) or "").partition(".")[0]


def code_digest(package: str, parts: tuple[str, ...]) -> str:
    """A digest of the code of a package's loaded modules.

    The functions and methods that would run, not their files: a function that was replaced while
    the program runs changes it.

    Args:
        package: name of the package.
        parts: its sub-packages and modules to look at.

    Raises:
        Foreign: a name of a module, or an attribute of a class, now holds a function or class from
            elsewhere, whose own code this does not see.
    """
    digest = hashlib.sha256()
    wanted = tuple(f"{package}.{part}" for part in parts)
    for name in sorted(sys.modules):
        if name in wanted or name.startswith(tuple(f"{w}." for w in wanted)):
            digest.update("\n".join(_of_module(sys.modules[name], package)).encode())
            digest.update(b"\n")
    return digest.hexdigest()


def _of_module(module: types.ModuleType, package: str) -> Iterator[str]:
    for name, value in sorted(vars(module).items()):
        if name.startswith("__") or isinstance(value, types.ModuleType):
            continue
        yield f"{module.__name__}.{name}"
        yield from _of_value(value, package, module.__name__)


def _of_value(value: object, package: str, home: str) -> Iterator[str]:
    """Lines that change when the value or its code does."""
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, enum.Enum):
        yield f"{type(value).__qualname__}.{value.name}"
    elif isinstance(value, tuple | list | set | frozenset):
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            yield from _of_value(item, package, home)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _of_value(key, package, home)
            yield from _of_value(item, package, home)
    elif isinstance(value, type):
        _check_known(value, package)
        yield f"{value.__module__}.{value.__qualname__}"
        if value.__module__ == home:
            for name, attribute in sorted(vars(value).items()):
                # Class variables of other kinds are made anew by Python or Equinox.
                if callable(_inner(attribute)):
                    yield name
                    yield from _of_value(_inner(attribute), package, home)
                elif _is_plain(attribute) and not name.startswith("__"):
                    yield f"{name}={attribute!r}"
    elif dataclasses.is_dataclass(value) and not callable(value):
        _check_known(type(value), package)
        yield f"{type(value).__module__}.{type(value).__qualname__}"
        for field in dataclasses.fields(value):
            yield from _of_value(getattr(value, field.name, None), package, home)
    elif callable(value):
        _check_known(value, package)
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        function = _inner(value)
        if isinstance(function, types.FunctionType) and library_of(function) == package:
            yield _of_code(function.__code__)
            for default in function.__defaults__ or ():
                yield from _of_value(default, package, home)
            for default in (function.__kwdefaults__ or {}).values():
                yield from _of_value(default, package, home)
        if isinstance(value, functools.partial):
            yield from _of_value((*value.args, *value.keywords.items()), package, home)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _check_known(value: object, package: str) -> None:
    library = library_of(value)
    # Methods that `NamedTuple` writes say that they are from a module of this name.
    if library.startswith("namedtuple_"):
        return
    if library and library != package and library not in LIBRARIES:
        # What the standard library and other dependencies hold is theirs, of a fixed version.
        known = library in sys.stdlib_module_names and library != "__main__"
        if not known and not _installed(library):
            raise Foreign(f"{value!r} is from {library}")


def _installed(library: str) -> bool:
    """Whether the module lies among installed packages, which are not edited in place."""
    file = getattr(sys.modules.get(library), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _inner(value: object) -> object:
    """The function inside a property, class method, method wrapper or compiled function."""
    if isinstance(value, property):
        return _inner(value.fget)
    if isinstance(value, classmethod | staticmethod):
        return _inner(value.__func__)
    if isinstance(value, types.FunctionType):
        wrapped = vars(value).get("__wrapped__")
        return value if wrapped is None else _inner(wrapped)
    if isinstance(value, type):
        return value
    for name in ("method", "__wrapped__", "func"):
        inner = getattr(value, name, None)
        if callable(inner):
            return _inner(inner)
    return value


# A function that was replaced has another code object, so that this stays true.
@functools.cache
def _of_code(code: types.CodeType) -> str:
    lines = [code.co_code.hex()]
    lines.append(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            lines.append(_of_code(constant))
        elif isinstance(constant, frozenset):
            lines.append(repr(sorted(map(repr, constant))))
        else:
            lines.append(repr(constant))
    return "\n".join(lines)
