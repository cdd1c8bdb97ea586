"""A name for a program: the same name only for the same code, on arguments of the same kind."""

import dataclasses
import enum
import functools
import hashlib
import os
import platform
from collections.abc import Callable
from importlib import metadata

import jax
import numpy as np

from loopwm.programs.code import LIBRARIES, Foreign, code_digest, library_of

_PARTS = ("actions", "agents", "choices", "core", "errors", "models", "nn", "planning")
_PARTS += ("stability", "training")

_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_enable_checks",
    "jax_optimization_level",
)


def program_name(function: Callable, arguments: tuple, options: object = None) -> str | None:
    """A name for the program that compiling `function` for `arguments` gives.

    It follows from the package's code as it is now, the versions of the libraries, the settings of
    JAX, the processor, the function, what is static in the arguments, and shapes and types of
    their arrays.

    Args:
        function: a function of this package.
        arguments: its arguments, arrays among them.
        options: whatever else the program depends on, plain values.

    Returns:
        64 hexadecimal digits; None where part of the program comes from code that a name cannot
        follow, such as a user's own module, a lambda or a closure.
    """
    try:
        told = [f"{function.__module__}.{function.__qualname__}", _described(arguments)]
        told += [_described(options), _machine(), code_digest("loopwm", _PARTS)]
    except Foreign:
        return None
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _machine() -> str:
    """Libraries, settings and processor."""
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "equinox")]
    versions += [f"{name} {metadata.version(name)}" for name in ("optax", "numpy", "mctx")]
    device = jax.devices()[0]
    told = [*versions, platform.python_version(), repr(settings())]
    told += [device.platform, device.device_kind, _processor(), os.environ.get("XLA_FLAGS", "")]
    return "\n".join(told)


def settings() -> tuple[object, ...]:
    """The settings of JAX, of this thread, that change what a function is traced or compiled to."""
    return tuple(getattr(jax.config, name) for name in _SETTINGS)


@functools.cache
def _processor() -> str:
    """The processor's instructions: a program for another one may not run on this."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            kept = {line for line in file if line.startswith(("flags", "Features", "model name"))}
        return "".join(sorted(kept))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


def _described(value: object) -> str:
    """Text that is the same for arguments of one program; raises Foreign for what has none."""
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        weak = getattr(value, "weak_type", False)
        return f"array{value.shape}{value.dtype}{weak}"
    if isinstance(value, enum.Enum):
        return f"{_named(type(value))}.{value.name}"
    if isinstance(value, type(None) | bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{_named(type(value))}({', '.join(map(_described, value))})"
    if isinstance(value, dict):
        pairs = (f"{_described(k)}: {_described(v)}" for k, v in value.items())
        return f"{_named(type(value))}({', '.join(pairs)})"
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, functools.partial):
        return _described((value.func, value.args, value.keywords))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (f.name for f in dataclasses.fields(value))
        inside = (f"{name}={_described(getattr(value, name, None))}" for name in fields)
        return f"{_named(type(value))}({', '.join(inside)})"
    if callable(value):
        return _named(value)
    raise Foreign(f"{value!r} has no description")


def _named(value: object) -> str:
    """Module and name of a class or function of this package or a library of fixed version."""
    name, library = getattr(value, "__qualname__", None), library_of(value)
    if name is None or "<" in name or library not in LIBRARIES | {"loopwm"}:
        raise Foreign(f"{value!r} is not of loopwm or its libraries")
    return f"{getattr(value, '__module__', '')}.{name}"
