"""The stability study of anyone's update, given as `module:factory`."""

import importlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from loopwm.errors import UsageError, as_clause
from loopwm.evaluation.study import Study
from loopwm.evaluation.study_config import StudyConfig
from loopwm.evaluation.study_inner import InnerInput, study_inner
from loopwm.nn import resolve
from loopwm.stability import (
    Certificate,
    Verification,
    certify,
    check_module,
    check_update,
    verify,
)
from loopwm.stability.spectra import DENSE_LIMIT
from loopwm.stability.trajectories import vector_map

GIVEN, NEARBY, FAR = "given", "nearby", "far"
"""Where the loop starts: at the state that was given, at random ones, or at far ones."""

# Radii of balls to verify, the largest first; None is the smallest that does.
_RADII = (1.0, 0.1, 0.01, None)
_PAIRS = 256


def load_factory(name: str) -> tuple[Callable[..., Array], Array | np.ndarray]:
    """Imports `module:factory` and calls it without arguments.

    Args:
        name: a module that can be imported, a colon, and the name of a function in it.

    Returns:
        The update h → h⁺ and a state h that the function returned.

    Raises:
        UsageError: module or function are missing, one of them raises, or something else came back.
    """
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"'{name}' could not be imported ({as_clause(error)}); check the name, install the "
            "package, or use the folder that holds the module as the current one."
        ) from error
    except AttributeError as error:
        raise UsageError(
            f"'{name}' could not be found ({as_clause(error)}); give a function of that module."
        ) from error
    except Exception as error:  # whatever a foreign module raises when it is imported
        raise UsageError(
            f"'{name}' could not be imported ({type(error).__name__}: {as_clause(error)}); correct "
            "the module."
        ) from error
    if not callable(factory):
        raise UsageError(
            f"'{name}' is a {type(factory).__name__}; give a function that returns an update and a "
            "state."
        )
    try:
        made = factory()
    except Exception as error:  # whatever a foreign function raises
        raise UsageError(
            f"'{name}' failed ({type(error).__name__}: {as_clause(error)}); correct it so that it "
            "returns an update and a state without arguments."
        ) from error
    return _checked(name, made)


def _checked(name: str, made: object) -> tuple[Callable[..., Array], Array | np.ndarray]:
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0])):
        raise UsageError(
            f"'{name}' returned a {type(made).__name__}, not an update and a state; return "
            "(update, state), with update a function or module h → h⁺, and use an array for state."
        )
    update, state = made
    try:
        state = state if isinstance(state, jax.Array) else np.asarray(state)
        numeric = jnp.issubdtype(state.dtype, jnp.number)
    except (TypeError, ValueError):
        numeric = False
    if not numeric:
        raise UsageError(
            f"The state that '{name}' returned is a {type(made[1]).__name__}; use an array of "
            "float32 or float64 for it."
        )
    return update, state


def study_module(name: str, config: StudyConfig) -> Study:
    """Certifies and measures the update that `module:factory` returns.

    Args:
        name: `module:factory`; see `load_factory`.
        config: sizes of the study.

    Returns:
        The study. Where no certificate can be issued its level is `empirical`, and a fixed point
        that was found is verified by itself where that can be done (level `ball`).

    Raises:
        UsageError: see `load_factory`; or the update has dropout, state, or weights that are NaN,
            integer or of low precision, changes shape or type, or cannot be differentiated.
    """
    update, state = load_factory(name)
    check_module(update)
    check_update(update, state)
    certificate, reason = _certificate(update, state)
    update = resolve(update)
    key_starts, key_inner, key_pairs = jax.random.split(jax.random.key(config.seed), 3)
    inner = study_inner(
        _starts(update, state, config, key=key_starts), certificate, config, key=key_inner
    )
    verification, ratio, sentences = None, None, []
    if certificate is not None:
        sentences.append(f"Update h → h⁺: {certificate.statement()}")
    else:
        sentences.append(f"No certificate: {reason}")
        at, verification, said = _verified(update, state, inner.rests[0])
        sentences.append(f"Around a found state: {said}")
        if at is not None and verification is not None and verification.verified:
            ratio = _ratio_in_ball(update, at, verification.radius, key=key_pairs)
    arrays = jax.tree.leaves(eqx.filter(update, eqx.is_inexact_array))
    count = sum(array.size for array in arrays) if isinstance(update, eqx.Module) else None
    return Study(
        name=name,
        env=None,
        seed=None,
        params={"total": count, "world_model": None, "core": count},
        certificate=certificate,
        reason=reason,
        transition=None,
        guarantees=tuple(sentences),
        inner=inner,
        outer=None,
        verification=verification,
        verified_ratio=ratio,
        config=config,
    )


def _certificate(
    update: Callable[..., Array], state: Array | np.ndarray
) -> tuple[Certificate | None, str | None]:
    """The certificate, or the sentence with which none is issued."""
    try:
        return certify(update, state), None
    except UsageError as error:
        return None, str(error)
    except Exception as error:  # whatever a foreign declare() or lipschitz() raises
        raise UsageError(
            f"{type(update).__name__} could not be certified ({type(error).__name__}: "
            f"{as_clause(error)}); correct its declare() or lipschitz()."
        ) from error


def _starts(
    update: Callable[..., Array],
    state: Array | np.ndarray,
    config: StudyConfig,
    *,
    key: PRNGKeyArray,
) -> list[InnerInput]:
    """The given state, random ones and far ones; the input is the same for all."""
    drawn = np.asarray(jax.random.normal(key, (2 * config.drawn, *np.shape(state))), state.dtype)
    starts = [np.asarray(state), *drawn[: config.drawn], *(config.far * drawn[config.drawn :])]
    kinds = [GIVEN] + [NEARBY] * config.drawn + [FAR] * config.drawn
    return [
        InnerInput(kind, update, start.astype(state.dtype), config.loops)
        for kind, start in zip(kinds, starts, strict=True)
    ]


def _verified(
    update: Callable[..., Array], state: Array | np.ndarray, rest: np.ndarray | None
) -> tuple[np.ndarray | None, Verification | None, str]:
    """A fixed point, what interval arithmetic proves around it, and a sentence that says it."""
    if np.size(state) > DENSE_LIMIT:
        return None, None, f"a state has more than {DENSE_LIMIT} entries, too many to verify here."
    if rest is None:
        return None, None, "no fixed point was found that could be verified."
    at, outcome = np.asarray(rest, state.dtype), None
    for radius in _RADII:
        try:
            outcome = verify(update, at, radius=radius)
        except UsageError as error:
            return None, None, str(error)
        if outcome.verified:
            break
    assert outcome is not None
    return at, outcome, outcome.statement()


def _ratio_in_ball(
    update: Callable[..., Array], center: np.ndarray, radius: float, *, key: PRNGKeyArray
) -> float:
    """Largest ratio of distances over random pairs inside a ball, in the 2-norm and float64."""
    mapped, middle = vector_map(update, center)
    with jax.enable_x64(True):
        drawn = jax.random.normal(key, (2, _PAIRS, middle.size), jnp.float64)
        lengths = jnp.linalg.norm(drawn, axis=-1, keepdims=True)
        share = jnp.linspace(0.05, 1.0, _PAIRS)[None, :, None]
        ends = jnp.asarray(middle)[None, None] + radius * share * drawn / lengths
        apart = jnp.linalg.norm(ends[0] - ends[1], axis=-1)
        after = jax.vmap(jax.vmap(mapped))(ends)
        return float(jnp.max(jnp.linalg.norm(after[0] - after[1], axis=-1) / apart))
