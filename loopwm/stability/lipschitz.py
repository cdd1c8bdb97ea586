"""Lipschitz bounds of modules in the 2-norm, from the layers they are made of.

`lipschitz` looks a layer up by its type. A layer of one's own joins in with a method
`lipschitz() -> UpperBound`, which comes before any rule, or with a rule:
`lipschitz.register(MyLayer, rule)`.
"""

import functools
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from loopwm.errors import UsageError
from loopwm.stability.bounds import UpperBound, chain
from loopwm.stability.checks import check_inherited, check_real
from loopwm.stability.convolution import convolution_norm, polyphase
from loopwm.stability.spectral import exact_norm


@runtime_checkable
class HasLipschitz(Protocol):
    """A layer that knows an upper bound of its own Lipschitz constant."""

    def lipschitz(self) -> UpperBound:
        """The bound for the weights as they are now."""
        ...


# Largest slopes of scalar functions, rounded up. GELU: 1.12890 at x = √2, its tanh approximation
# 1.12899; SiLU: 1.09984 at x ≈ 2.3994; mish: 1.08850 at x ≈ 1.4906; SELU: λα = 1.75810 below 0.
_SLOPES: dict[Callable, float] = {
    jax.nn.relu: 1.0,
    jax.nn.relu6: 1.0,
    jax.nn.leaky_relu: 1.0,
    jax.nn.elu: 1.0,
    jax.nn.celu: 1.0,
    jax.nn.selu: 1.7581,
    jax.nn.softplus: 1.0,
    jax.nn.squareplus: 1.0,
    jax.nn.sigmoid: 0.25,
    jax.nn.log_sigmoid: 1.0,
    jax.nn.hard_sigmoid: 0.1667,
    jax.nn.gelu: 1.1290,
    jax.nn.silu: 1.0999,
    jax.nn.mish: 1.0886,
    jax.nn.hard_silu: 1.5,
    jax.nn.hard_tanh: 1.0,
    jax.nn.soft_sign: 1.0,
    jax.nn.tanh: 1.0,
    jax.nn.identity: 1.0,
    jnp.tanh: 1.0,
    jnp.sin: 1.0,
    jnp.cos: 1.0,
    jnp.abs: 1.0,
    jnp.arctan: 1.0,
    jax.lax.tanh: 1.0,
}

# Functions of a whole array: rearrangements of its entries, and softmax, whose Jacobian
# diag(p) − ppᵀ has no row with a sum of absolute values above 2p(1 − p) ≤ 1/2.
_WHOLE: dict[Callable, float] = {
    jnp.ravel: 1.0,
    jnp.squeeze: 1.0,
    jnp.transpose: 1.0,
    jnp.flip: 1.0,
    jax.nn.softmax: 0.5,
}

# Slopes of scalar functions that take a parameter, bound by functools.partial.
_PARAMETRIC: dict[Callable, tuple[str, Callable[[object], float]]] = {
    jax.nn.leaky_relu: ("negative_slope", lambda slope: _at_least_one(slope)),
    jax.nn.elu: ("alpha", lambda alpha: _at_least_one(alpha)),
    jax.nn.celu: ("alpha", lambda alpha: _celu(alpha)),
    jax.nn.gelu: ("approximate", lambda _: _SLOPES[jax.nn.gelu]),
}


@functools.singledispatch
def lipschitz(module: object) -> UpperBound:
    """An upper bound of a module's Lipschitz constant in the 2-norm, from float64.

    A method `lipschitz()` of the module comes first. Then there are rules for the layers of
    `equinox.nn`: Linear, Conv (zero or circular padding, of any input size), WeightNorm, AvgPool,
    MaxPool, LayerNorm, GroupNorm, RMSNorm, PReLU, Identity, Dropout switched off, Lambda,
    Sequential, MLP; for the activations of `jax.nn`, also with their parameter bound by
    `functools.partial`; and for functions that return their argument. A subclass with a `__call__`
    of its own has no rule. Layers that are known to have no useful bound, or none that holds for
    every input, are refused with the rest.

    Args:
        module: a layer, a container of layers, or an activation function.

    Returns:
        The bound, level `global`.

    Raises:
        UsageError: there is no rule for the module or for one inside it, or none that holds.
    """
    if isinstance(module, HasLipschitz) and not isinstance(module, type):
        return _declared(module)
    if isinstance(module, functools.partial):
        return _of_partial(module)
    known: dict[object, float] = {**_SLOPES, **_WHOLE}
    if _is_hashable(module) and module in known:
        return UpperBound(known[module])
    if _returns_its_argument(module):
        return UpperBound(1.0)
    raise _unknown(module)


def _rule(*kinds: type[eqx.Module]) -> Callable:
    """Registers a rule for layers of these types, and for subclasses that compute the same."""

    def decorate(rule: Callable) -> Callable:
        for kind in kinds:

            def guarded(module: eqx.Module, kind: type = kind) -> UpperBound:
                if isinstance(module, HasLipschitz):
                    return _declared(module)
                if type(module).__call__ is not kind.__call__:
                    raise _unknown(module)  # another map with the same weights
                return rule(module)

            lipschitz.register(kind, guarded)
        return rule

    return decorate


@_rule(eqx.nn.Linear)
def _linear(module: eqx.nn.Linear) -> UpperBound:
    weight = np.asarray(module.weight)
    if weight.ndim != 2:
        raise UsageError(
            f"A linear layer has weights of shape {weight.shape}, as a stack of layers has; pass "
            "the layers one at a time."
        )
    return exact_norm(weight)


@_rule(eqx.nn.Identity)
def _identity(module: eqx.nn.Identity) -> UpperBound:
    return UpperBound(1.0)


@_rule(eqx.nn.Dropout)
def _dropout(module: eqx.nn.Dropout) -> UpperBound:
    if module.inference or module.p == 0:
        return UpperBound(1.0)
    raise UsageError(
        "The module has dropout, which makes each call another map; use "
        "equinox.nn.inference_mode to switch it off."
    )


@_rule(eqx.nn.PReLU)
def _prelu(module: eqx.nn.PReLU) -> UpperBound:
    return UpperBound(_at_least_one(module.negative_slope))


@_rule(eqx.nn.LayerNorm, eqx.nn.GroupNorm, eqx.nn.RMSNorm)
def _normalisation(module: eqx.nn.LayerNorm | eqx.nn.GroupNorm | eqx.nn.RMSNorm) -> UpperBound:
    # Centring is a projection. x/s with s = √(‖x‖²/n + ε) has the Jacobian (I − xxᵀ/(ns²))/s, whose
    # eigenvalues are 1/s and ε/s³, and s ≥ √ε. It is attained near x = 0, so this large number
    # (316 for ε = 1e-5) is the truth and not slack: loopwm.nn.SoftNorm has 1 instead.
    epsilon = min(float(module.eps), float(np.float32(module.eps)))
    if not epsilon > 0:
        raise UsageError(
            f"{_describe(module)} has eps={module.eps}, so its slope has no bound near 0; set a "
            "positive eps."
        )
    weight = 1.0 if module.weight is None else np.max(np.abs(_real(module.weight, module)))
    return UpperBound(float(weight) / math.sqrt(epsilon) * (1.0 + 1e-14))


@_rule(eqx.nn.Conv)
def _convolution(module: eqx.nn.Conv) -> UpperBound:
    kernel = np.asarray(module.weight)
    if kernel.ndim != module.num_spatial_dims + 2:
        raise UsageError(
            f"A convolution has weights of shape {kernel.shape}, as a stack of layers has; pass "
            "the layers one at a time."
        )
    if module.padding_mode == "ZEROS":
        # A padded, cropped or strided convolution of a finite grid is a part of the infinite one.
        return convolution_norm(
            polyphase(kernel, module.stride, module.dilation), groups=module.groups
        )
    if module.padding_mode != "CIRCULAR":
        raise UsageError(
            f"{_describe(module)} has padding_mode={module.padding_mode!r}, which repeats cells "
            "and has no bound here; use 'ZEROS' or 'CIRCULAR'."
        )
    if not isinstance(module.padding, str):
        reach = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        if any(sum(p) > r for p, r in zip(module.padding, reach, strict=True)):
            raise UsageError(
                f"{_describe(module)} has circular padding {module.padding}, more than its window "
                "reaches, so outputs repeat; use padding='SAME'."
            )
    # No output comes twice, so a stride only drops outputs; dilation multiplies every angle.
    return convolution_norm(kernel, groups=module.groups)


@_rule(eqx.nn.WeightNorm)
def _weight_norm(module: eqx.nn.WeightNorm) -> UpperBound:
    weight = _real(getattr(module.layer, module.weight_name), module)
    kept = None if module.axis is None else module.axis % weight.ndim
    others = tuple(a for a in range(weight.ndim) if a != kept)
    length = np.sqrt(np.sum(weight * weight, axis=others, keepdims=True))
    if not np.all(length > 0):
        raise UsageError(
            "A weight-normalised layer has rows of zeros or NaN, which have no direction; restore "
            "the weights from an earlier checkpoint."
        )
    effective = weight / length * _real(module.g, module)
    name = module.weight_name
    return lipschitz(eqx.tree_at(lambda layer: getattr(layer, name), module.layer, effective))


@_rule(eqx.nn.AvgPool1d, eqx.nn.AvgPool2d, eqx.nn.AvgPool3d)
def _average_pool(module: eqx.nn.Pool) -> UpperBound:
    _check_operation(module, jax.lax.add)
    # A strided convolution with the kernel 1/k: as it has no negative entry, its symbol is largest
    # at angle 0, and there it has one entry for each residue: the taps on it, divided by k.
    size = 1.0
    for k, s in zip(module.kernel_size, module.stride, strict=True):
        taps = [len(range(r, k, s)) for r in range(min(k, s))]
        size *= math.sqrt(sum(t * t for t in taps)) / k
    return UpperBound(size * (1.0 + 1e-14))


@_rule(eqx.nn.MaxPool1d, eqx.nn.MaxPool2d, eqx.nn.MaxPool3d)
def _max_pool(module: eqx.nn.Pool) -> UpperBound:
    _check_operation(module, jax.lax.max)
    # |max x − max y|² ≤ Σ |x − y|² over a window, and no cell is in more than ⌈k/s⌉ windows of an
    # axis: 1 where windows do not overlap.
    windows = math.prod(-(-k // s) for k, s in zip(module.kernel_size, module.stride, strict=True))
    return UpperBound(math.sqrt(windows) * (1.0 + 1e-15) if windows > 1 else 1.0)


@_rule(eqx.nn.Lambda)
def _lambda(module: eqx.nn.Lambda) -> UpperBound:
    return lipschitz(module.fn)


@_rule(eqx.nn.Sequential)
def _sequential(module: eqx.nn.Sequential) -> UpperBound:
    return chain(*(lipschitz(layer) for layer in module.layers))


@_rule(eqx.nn.MLP)
def _mlp(module: eqx.nn.MLP) -> UpperBound:
    first, *middle = module.layers
    if module.depth == 0:
        return lipschitz(first)  # equinox leaves the final activation out
    if module.scan:
        stack, last = middle
        copies = range(module.depth - 1)
        middle = [jax.tree.map(lambda x, i=i: x[i], stack) for i in copies] + [last]
    parts = [lipschitz(layer) for layer in (first, *middle)]
    parts += [
        _of_neurons(module.activation, (layer,), module.width_size) for layer in range(module.depth)
    ]
    if module.out_size == "scalar":
        return chain(*parts, lipschitz(module.final_activation))
    return chain(*parts, _of_neurons(module.final_activation, (), module.out_size))


def _of_neurons(activation: Callable, layer: tuple[int, ...], width: int) -> UpperBound:
    """The largest slope in a layer: an MLP stacks the arrays of an activation, if it has any."""
    arrays, rest = eqx.partition(activation, eqx.is_array)
    if not jax.tree.leaves(arrays):
        return lipschitz(activation)
    bounds = []
    for neuron in range(width):
        own = jax.tree.map(lambda x, i=(*layer, neuron): np.asarray(x)[i], arrays)
        bounds.append(lipschitz(eqx.combine(own, rest)))
    return max(bounds, key=float)


def _of_partial(function: functools.partial) -> UpperBound:
    """A known activation with its one parameter bound by name."""
    known = _PARAMETRIC.get(function.func) if _is_hashable(function.func) else None
    if not function.args and not function.keywords:
        return lipschitz(function.func)
    if known is None or function.args or set(function.keywords) != {known[0]}:
        raise _unknown(function)
    return UpperBound(known[1](function.keywords[known[0]]))


def _real(weight: object, module: object) -> np.ndarray:
    """Weights in float64."""
    check_real(weight, _describe(module))
    return np.asarray(weight, np.float64)


def _at_least_one(slope: object) -> float:
    """max(1, |slope|) over all entries."""
    check_real(slope, "An activation")
    largest = float(np.max(np.abs(np.asarray(slope, np.float64)), initial=1.0))
    if not largest < math.inf:
        raise UsageError(
            "The slope of an activation is NaN or infinite; restore it from an earlier checkpoint."
        )
    return largest


def _celu(alpha: object) -> float:
    check_real(alpha, "celu")
    if not np.all(np.asarray(alpha, np.float64) > 0):
        raise UsageError(f"celu with alpha={alpha} has no largest slope; give a positive alpha.")
    return 1.0


def _check_operation(module: eqx.nn.Pool, operation: Callable) -> None:
    if module.operation is not operation:
        raise _unknown(module)


def _returns_its_argument(function: object) -> bool:
    """Whether a function computes nothing: traced for arrays of rank 0 to 4."""
    if not callable(function) or isinstance(function, eqx.Module | type):
        return False
    for shape in ((), (3,), (2, 5), (2, 3, 5), (2, 3, 4, 5)):
        try:
            jaxpr = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, jnp.float32)).jaxpr
        except Exception:  # what cannot be traced is refused later, as a function without a bound
            return False
        if jaxpr.eqns or len(jaxpr.outvars) != 1 or jaxpr.outvars[0] is not jaxpr.invars[0]:
            return False
    return True


def _declared(module: HasLipschitz) -> UpperBound:
    if not callable(module.lipschitz):
        raise UsageError(
            f"{_describe(module)}.lipschitz is of type {type(module.lipschitz).__name__}, no "
            "method; give it a method lipschitz() -> UpperBound."
        )
    check_inherited(module, "lipschitz")
    bound = module.lipschitz()
    if not isinstance(bound, UpperBound):
        raise UsageError(
            f"{_describe(module)}.lipschitz() returned {type(bound).__name__}, which proves "
            "nothing; pass back an UpperBound."
        )
    return bound


def _is_hashable(module: object) -> bool:
    try:
        hash(module)
    except TypeError:
        return False
    return True


def _unknown(module: object) -> UsageError:
    remedy = "give it a method lipschitz() -> UpperBound"
    if isinstance(module, eqx.Module):
        remedy += (
            ", or declare(), or a rule with loopwm.stability.lipschitz.register, or use verify for "
            "one state"
        )
    else:
        remedy = f"wrap it in a module and {remedy}"
    return UsageError(f"No Lipschitz bound of {_describe(module)} is known; {remedy}.")


def _describe(module: object) -> str:
    if isinstance(module, functools.partial):
        return f"a partial of {_describe(module.func)}"
    return getattr(module, "__name__", None) or type(module).__name__
