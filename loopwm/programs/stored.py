"""A compiled function whose programs are kept in a folder."""

import contextlib
import enum
import os
import pathlib
import pickle
import tempfile
import threading
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from loopwm.programs.identity import program_name, settings

KEPT = 64
"""Programs that the folder keeps, those used last."""

RUNS_ONCE: dict[str, Any] = {"xla_backend_optimization_level": 0}
"""Compiler options for a program that runs once: the time to optimise it would be lost."""

Donate = Literal["none", "second"]
"""The argument whose buffers are given up. All of its arrays need one of their kind in the value:
JAX warns of others, and a filter of warnings is the process's, not the compiling thread's."""

_WATCHING = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")

_folder: list[pathlib.Path] = []


def keep_in(folder: str | os.PathLike[str]) -> None:
    """Keeps the programs of this process in a folder, and takes them from there.

    What is there is trusted as code is: the folder has to be the user's own.
    """
    _folder[:] = [pathlib.Path(folder)]


class _PastTheCompileCache:
    """Has JAX compile anew, even what its own cache holds.

    An executable that JAX took from its cache does not hold its machine code any more: serialised
    again and loaded, it fails when it is called. The setting is the process's, so that threads that
    compile at the same time leave it off until the last one is done.
    """

    def __init__(self):
        self._lock, self._inside, self._used = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._used = jax.config.values["jax_enable_compilation_cache"]
                self._set(False)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(self._used)

    @staticmethod
    def _set(used: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", used)
        # JAX decides once a process whether it uses its cache; now it decides again.
        compilation_cache.reset_cache()


_past_the_compile_cache = _PastTheCompileCache()


class _Mark(enum.Enum):
    """Holds the place of an array."""

    ARRAY = enum.auto()


class StoredProgram:
    """`eqx.filter_jit` for a function of arrays, with programs that outlive the process.

    JAX caches what its compiler made, but to find it there a function has to be traced and lowered
    first, which for a learner's update takes longer than all else at start-up. A stored program is
    found by a name that follows from the code, the kinds of the arguments and the machine (see
    `program_name`), before anything is traced. Without a folder, with several devices, inside
    another transformation, or where the name cannot be known, this is `eqx.filter_jit`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        donate: Donate = "none",
        compiler_options: dict[str, Any] | None = None,
    ):
        """Wraps a function.

        Args:
            function: of this package, of positional arguments, the first of which is a tuple of
                what stays the same from call to call; it returns a pytree of arrays and of
                whatever pickle finds by name.
            donate: whether the buffers of the second argument are given up.
            compiler_options: for XLA, as `jax.jit` takes them.
        """
        self.__wrapped__ = function
        self.__module__, self.__qualname__ = function.__module__, function.__qualname__
        self._donate: Donate = donate
        self._options = compiler_options or {}
        self._traced = eqx.filter_jit(  # pyright: ignore[reportCallIssue] -- passes them to jax.jit
            function,
            # Its filter has no word for the second one alone; others are few and small.
            donate="none" if donate == "none" else "all-except-first",
            compiler_options=self._options,
        )
        self._programs: dict[object, Callable[..., Any] | None] = {}
        self._staying: _Staying | None = None
        self._making = threading.Lock()

    def __call__(self, first: Any, *others: Any) -> Any:
        """The function's value."""
        leaves, structure = jax.tree.flatten(others)
        if self._options and _is_traced(jax.tree.leaves((first, others))):
            # Part of another program, whose options hold; JAX refuses ones of its own.
            return self.__wrapped__(first, *others)
        if not _folder or _elsewhere(leaves):
            return self._traced(first, *others)
        staying = self._staying
        if staying is None or not staying.is_made_of(first):
            staying = _Staying(first)
            if staying.elsewhere:
                return self._traced(first, *others)
            self._staying = staying
        kinds = _kinds(staying, structure, leaves)
        try:
            program = self._programs[kinds]
        except KeyError:
            program = self._made(kinds, (first, *others))
        if program is None:
            return self._traced(first, *others)
        return program(*staying.arrays, *filter(_is_array, leaves))

    def prepare(self, first: Any, *others: Any) -> None:
        """Makes the program for arguments of these kinds, so that a call finds it.

        A call that comes meanwhile, from another thread, waits for it. Nothing is done where
        programs are not kept.

        Args:
            first: of a call; shapes (`jax.ShapeDtypeStruct`) may stand in the places of arrays.
            *others: the same.
        """
        leaves, structure = jax.tree.flatten(others)
        staying = _Staying(first)
        if _folder and not (staying.elsewhere or _elsewhere(leaves)):
            self._made(_kinds(staying, structure, leaves), (first, *others))

    def is_kept(self, first: Any, *others: Any) -> bool:
        """Whether a call with such arguments would find its program, in the folder or in memory."""
        if not _folder:
            return False
        leaves, structure = jax.tree.flatten(others)
        if _kinds(_Staying(first), structure, leaves) in self._programs:
            return True
        name = self._name((first, *others))
        return name is not None and self._file(name).exists()

    def _made(self, kinds: object, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        """The program of these kinds, made unless another thread has made it meanwhile."""
        with self._making:
            if kinds not in self._programs:
                self._programs[kinds] = self._program(arguments)
            return self._programs[kinds]

    def _name(self, arguments: tuple[Any, ...]) -> str | None:
        return program_name(self.__wrapped__, arguments, (self._donate, self._options))

    @staticmethod
    def _file(name: str) -> pathlib.Path:
        return _folder[0] / f"{name}.program"

    def _program(self, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        """The program for arguments of these kinds; None where it cannot be kept."""
        name = self._name(arguments)
        if name is None:
            return None
        file = self._file(name)
        return _load(file) or self._compile(arguments, file)

    def _compile(self, arguments: tuple[Any, ...], file: pathlib.Path) -> Callable[..., Any]:
        """Traces, compiles and keeps the program."""
        static = [x for x in jax.tree.leaves(arguments) if not _is_array(x)]
        places = [_is_array(x) for x in jax.tree.leaves(arguments)]
        structure = jax.tree.structure(arguments)
        returned: list[Any] = []  # the value with marks in the places of its arrays

        def flat(*given: jax.Array) -> list[jax.Array]:
            arrays, others = iter(given), iter(static)
            leaves = [next(arrays if is_array else others) for is_array in places]
            value = self.__wrapped__(*jax.tree.unflatten(structure, leaves))
            returned[:] = [jax.tree.map(lambda x: _Mark.ARRAY if _is_array(x) else x, value)]
            return [x for x in jax.tree.leaves(value) if _is_array(x)]

        flat.__name__ = self.__wrapped__.__name__
        kept, second = len(_arrays(arguments[:1])), len(_arrays(arguments[1:2]))
        given_up = range(kept, kept + second) if self._donate == "second" else ()
        lowered = jax.jit(flat, donate_argnums=tuple(given_up)).lower(*_arrays(arguments))
        with _past_the_compile_cache:
            compiled = lowered.compile(compiler_options=self._options)
        _save(file, compiled, returned[0])
        return _returning(compiled, returned[0])


class _Staying:
    """A first argument taken apart: as long as it is made of the same objects, it is once.

    Modules are immutable, so the same objects have the same arrays. To take an agent's networks
    apart costs as much as a tenth of its decision.
    """

    def __init__(self, first: Any):
        self._made_of = first
        leaves, structure = jax.tree.flatten(first)
        self.elsewhere = _elsewhere(leaves)
        self.kind = structure, tuple(map(_kind, leaves))
        self.arrays = list(filter(_is_array, leaves))

    def is_made_of(self, first: Any) -> bool:
        """Whether it is a tuple of the very same objects."""
        own = self._made_of
        if not (isinstance(first, tuple) and isinstance(own, tuple) and len(first) == len(own)):
            return False
        return all(a is b for a, b in zip(first, own, strict=True))


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _kind(leaf: Any) -> object:
    """What of a leaf the program depends on."""
    if _is_array(leaf):
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
    return type(leaf), leaf


def _kinds(staying: _Staying, structure: object, leaves: list[Any]) -> object:
    """What of all arguments a program depends on: the first one, and those after it."""
    return staying.kind, structure, tuple(map(_kind, leaves)), settings()


def _is_traced(leaves: list[Any]) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in leaves)


def _elsewhere(leaves: list[Any]) -> bool:
    """Whether the call is part of another program, under a debugger, or not for one device."""
    watched = any(getattr(jax.config, name) for name in _WATCHING)
    return _is_traced(leaves) or watched or jax.device_count() > 1


def _arrays(tree: Any) -> list[Any]:
    """The arrays of arguments, in order."""
    return [x for x in jax.tree.leaves(tree) if _is_array(x)]


def _returning(compiled: Callable[..., list[Any]], marked: Any) -> Callable[..., Any]:
    """The program with its value in the shape that the function gives it."""
    leaves, structure = jax.tree.flatten(marked)

    def call(*given: Any) -> Any:
        arrays = iter(compiled(*given))
        filled = [next(arrays) if leaf is _Mark.ARRAY else leaf for leaf in leaves]
        return jax.tree.unflatten(structure, filled)

    return call


def _load(file: pathlib.Path) -> Callable[..., Any] | None:
    """The program in a file, or None where there is none that can be used."""
    try:
        program, marked = pickle.loads(file.read_bytes())
        compiled = serialize_executable.deserialize_and_load(*program)
        file.touch()
    except FileNotFoundError:
        return None
    except Exception:
        # Whatever is wrong with a kept program, a new one takes its place.
        return None
    return _returning(compiled, marked)


def _save(file: pathlib.Path, compiled: Any, marked: Any) -> None:
    """Keeps a program, whole or not at all, and forgets those not used for longest.

    A folder that cannot be written costs the next process its time, and nothing else.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, pickle.PicklingError):
        content = pickle.dumps((serialize_executable.serialize(compiled), marked))
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            try:
                part.write(content)
                part.flush()
                os.replace(part.name, file)
            except OSError:
                os.unlink(part.name)
                raise
        known = sorted(file.parent.glob("*.program"), key=lambda f: f.stat().st_mtime)
        for old in known[:-KEPT]:
            old.unlink(missing_ok=True)
