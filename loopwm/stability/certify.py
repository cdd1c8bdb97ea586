"""Issues certificates, or says why none can be issued."""

import numpy as np
from jaxtyping import Array

from loopwm.errors import UsageError
from loopwm.stability.bounds import Level, UpperBound, chain, scaled
from loopwm.stability.certificate import Certificate, TransitionCertificate
from loopwm.stability.checks import check_inherited, check_module, check_update
from loopwm.stability.declaration import (
    Certifiable,
    CertifiableTransition,
    LayerBound,
    Mode,
    TransitionDeclaration,
    UpdateDeclaration,
)
from loopwm.stability.lipschitz import lipschitz
from loopwm.stability.norms import Norm

# A few steps of float64 rounding.
_MARGIN = 1.0 + 1e-14


def certify(module: object, state: Array | np.ndarray | None = None) -> Certificate:
    r"""Certifies what can be proven of an inner update, for the weights as they are now.

    With γ the product of the layers' bounds and ā ∈ [a_min, a_max], an update
    $h^+ = \bar a \odot h + (1-\bar a) \odot g(h, e)$ changes distances by
    $\rho = \max(a + (1-a)\gamma)$ over both ends a at most, for every state and input: in the
    P-norm when γ is meant in the 2-norm (proof in `loopwm.stability.weighted`), and in a norm in
    which γ holds when ā is one number, or that norm is the ∞-norm. Bounds come from float64.

    A module that declares no inner update is taken for the update itself, and certified in the
    2-norm from the layers it is made of (see `loopwm.stability.lipschitz`).

    Args:
        module: a core that declares its inner update, such as `LoopedCore`, or a module h → h⁺.
        state: any state h of a module that declares no update; its shape and type are used.

    Returns:
        A certificate: level `global` with a rate below 1; level `ball` for a core of mode
        `bounded`; level `linear` for one of mode `linear`.

    Raises:
        UsageError: something voids it (dropout, state, NaN, integer or low-precision weights),
            the core is of mode `free`, a layer has no known bound, or one that holds in another
            norm or inside a set only, the map is not square, or γ is not below 1, so that no
            certificate exists.
    """
    if isinstance(module, type):
        raise UsageError(f"{module.__name__} is a class; pass one of its instances.")
    dtype = check_module(module)
    if not isinstance(module, Certifiable):
        return _of_layers(module, state, dtype)
    # What a core repeats is made by its `bind`; another module is the update itself.
    check_inherited(module, "declare", "bind" if hasattr(module, "bind") else "__call__")
    declared = module.declare()
    if not isinstance(declared, UpdateDeclaration):
        raise _not_declared(module, "declare", declared, UpdateDeclaration)
    _check_retention(declared)
    if declared.mode is Mode.FREE:
        raise UsageError(
            f"{type(module).__name__} is of mode 'free', in which nothing is guaranteed; use "
            "model.core.mode contractive or bounded to have a certificate."
        )
    if declared.mode is Mode.LINEAR:
        return _of_retention(declared, dtype)
    return _of_update(declared, dtype)


def certify_transition(model: object) -> TransitionCertificate:
    """Certifies the ball that imagined states stay in, for every horizon and action sequence.

    Args:
        model: a world model that declares its transition, such as `LoopedWorldModel`.

    Returns:
        The certificate, of level `ball`.

    Raises:
        UsageError: the model declares no transition, or something voids the claim.
    """
    if not isinstance(model, CertifiableTransition) or isinstance(model, type):
        raise UsageError(
            f"{type(model).__name__} declares no bound of its imagined transition, so no ball can "
            "be certified; pass a world model that does, such as agent.world_model."
        )
    dtype = check_module(model)
    declared = model.declare_transition()
    if not isinstance(declared, TransitionDeclaration):
        raise _not_declared(model, "declare_transition", declared, TransitionDeclaration)
    if not 0.0 < declared.radius < float("inf"):
        raise UsageError(
            f"The declared radius is {declared.radius}; a ball needs a positive, finite one."
        )
    return TransitionCertificate(declared.radius, declared.norm, dtype)


def _not_declared(module: object, method: str, found: object, kind: type) -> UsageError:
    return UsageError(
        f"{type(module).__name__}.{method}() returned {type(found).__name__}, which declares "
        f"nothing; pass back a loopwm.stability.{kind.__name__}."
    )


def _of_update(declared: UpdateDeclaration, dtype: str) -> Certificate:
    gamma = float(_of_block(declared))
    bounded = declared.mode is Mode.BOUNDED
    if not (gamma < 1.0 or (bounded and np.isfinite(gamma))):
        raise UsageError(
            f"The block's Lipschitz bound is {gamma:.4f}, not below 1, so the update is not "
            "certified to contract; lower gamma or cap the layers."
        )
    if bounded and not (declared.radius is not None and 0 < declared.radius < float("inf")):
        raise UsageError(
            f"The declared radius is {declared.radius}; a bounded core needs a positive, finite "
            "one."
        )
    low, high = declared.retention_min, declared.retention_max
    ends = [a + (1.0 - a) * gamma for a in (low, high)]
    condition = _largest_condition(low, high, gamma) if declared.norm is Norm.P else None
    return Certificate(
        level=Level.BALL if bounded else Level.GLOBAL,
        rate=max(ends) * _MARGIN,
        norm=declared.norm,
        gamma=gamma,
        condition=_condition(declared.norm) if condition is None else condition,
        layers=declared.layers,
        dtype=dtype,
        mode=declared.mode,
        radius=declared.radius,
    )


def _of_block(declared: UpdateDeclaration) -> UpperBound:
    """γ: the layers' bounds times the scale, in the norm that the declaration needs."""
    bound = scaled(chain(*(layer.bound for layer in declared.layers)), declared.scale)
    needed = Norm.TWO if declared.norm is Norm.P else declared.norm
    if declared.layers and bound.norm is not needed:
        raise UsageError(
            f"The layers' bounds hold in the {bound.norm}-norm, and a declaration in the "
            f"{declared.norm}-norm needs them in the {needed}-norm; give UpdateDeclaration the "
            "layers' norm, or bring the bounds to it with loopwm.stability.converted."
        )
    _check_global(bound, "declared update")
    return bound


def _check_global(bound: UpperBound, what: str) -> None:
    if bound.level is not Level.GLOBAL:
        raise UsageError(
            f"A layer's bound in the {what} has level '{bound.level}', so it does not hold for "
            "every state; give a bound of level 'global', or verify a state with "
            "loopwm.stability.verify."
        )


def _condition(norm: Norm) -> float:
    """κ outside the P-norm: that of the ∞-norm grows with the number of entries, unknown here."""
    return 1.0 if norm is Norm.TWO else float("inf")


def _of_retention(declared: UpdateDeclaration, dtype: str) -> Certificate:
    return Certificate(
        level=Level.LINEAR,
        rate=declared.retention_max,
        norm=Norm.TWO,
        gamma=None,
        condition=1.0,
        layers=(),
        dtype=dtype,
        mode=declared.mode,
    )


def _of_layers(module: object, state: Array | np.ndarray | None, dtype: str) -> Certificate:
    if state is None or not callable(module):
        raise UsageError(
            f"{type(module).__name__} does not declare an inner update; pass a looped core, such "
            "as agent.world_model.core, or a module h → h⁺ together with a state h."
        )
    check_update(module, state)
    bound = lipschitz(module)
    _check_global(bound, type(module).__name__)
    if not float(bound) < 1.0:
        raise UsageError(
            f"The Lipschitz bound of {type(module).__name__} is {float(bound):.4f}, not below 1, "
            "so it is not certified to contract; cap its layers, or verify a state of it with "
            "loopwm.stability.verify."
        )
    return Certificate(
        level=bound.level,
        rate=float(bound),
        norm=bound.norm,
        gamma=float(bound),
        condition=_condition(bound.norm),
        layers=(LayerBound(type(module).__name__, bound),),
        dtype=dtype,
    )


def _check_retention(declared: UpdateDeclaration) -> None:
    low, high = declared.retention_min, declared.retention_max
    inside = 0.0 < low <= high < 1.0 or low == high == 0.0
    if declared.mode is Mode.LINEAR:
        inside = 0.0 <= low <= high < 1.0  # nothing divides by it
    if not inside and declared.mode is not Mode.FREE:
        raise UsageError(
            f"The declared retention lies in [{low}, {high}], not inside (0, 1), so the update is "
            "not certified to contract; lower its largest value or raise its smallest."
        )


def _largest_condition(low: float, high: float, gamma: float) -> float:
    """κ over all ā in [low, high]: p(ā) may have its minimum inside, where (1−ā)c is largest."""
    if high == 0.0:
        return 1.0
    ends = [1.0 / ((1.0 - a) * (a + (1.0 - a) * gamma)) for a in (low, high)]
    smallest = min(ends)
    if gamma < 1.0:
        # (1−ā)(ā + (1−ā)γ) is a concave quadratic in ā with its top at (1−2γ)/(2(1−γ)).
        top = (1.0 - 2.0 * gamma) / (2.0 * (1.0 - gamma))
        if low < top < high:
            smallest = min(smallest, 1.0 / ((1.0 - top) * (top + (1.0 - top) * gamma)))
    return float(np.sqrt(max(ends) / smallest)) * _MARGIN
