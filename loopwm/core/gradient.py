r"""Gradients through the loop: all loops, the last k, or the fixed point's own.

Memory of reverse mode for T loops, beside what one loop needs: `full` keeps every loop's
intermediates, `full` with checkpoints every loop's state, `truncated` what k loops need, and
`implicit` one state.
"""

import enum
from typing import Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from loopwm.choices import member
from loopwm.core.update import AbstractUpdate
from loopwm.errors import UsageError
from loopwm.stability import Mode, norms

Tree = TypeVar("Tree")


class GradientKind(enum.StrEnum):
    """Which loops carry gradient."""

    FULL = "full"
    """All of them."""
    TRUNCATED = "truncated"
    """The last k; what came before counts as a constant."""
    IMPLICIT = "implicit"
    """None: the final state is taken for the fixed point, which is differentiated as such."""


def _kind(given: GradientKind) -> GradientKind:
    return member(GradientKind, given, "gradient.kind")


class LoopGradient(eqx.Module):
    """How the loop is differentiated in reverse mode; the forward values are the same."""

    kind: GradientKind = eqx.field(static=True, default=GradientKind.FULL, converter=_kind)
    """full, truncated or implicit."""
    checkpoint: bool = eqx.field(static=True, default=False)
    """Keep the state of each loop alone and compute the loop anew backwards. Not for implicit."""
    loops: int = eqx.field(static=True, default=2)
    """k: last loops that carry gradient. Kind truncated alone."""
    terms: int = eqx.field(static=True, default=128)
    """Largest number of terms of the Neumann series. Kind implicit alone."""
    tolerance: float = eqx.field(static=True, default=1e-5)
    """The series ends with a term of at most this share of its first. Kind implicit alone."""

    def __check_init__(self):
        """Refuses numbers outside their ranges."""
        if self.loops < 1 or self.terms < 1:
            raise UsageError(
                f"gradient.loops is {self.loops} and terms {self.terms}; give at least 1."
            )
        if not 0.0 <= self.tolerance < 1.0:
            raise UsageError(f"gradient.tolerance is {self.tolerance}; give a value in [0, 1).")


FULL = LoopGradient()


@runtime_checkable
class _Moded(Protocol):
    mode: Mode


def check_gradient(gradient: LoopGradient, config: object) -> None:
    """Refuses a gradient that the core's configuration cannot have.

    Args:
        gradient: the wanted gradient.
        config: configuration of a core; one without a mode is contractive.

    Raises:
        UsageError: an implicit gradient of a core that is not built to have one fixed point.
    """
    if gradient.kind is not GradientKind.IMPLICIT or not isinstance(config, _Moded):
        return
    if config.mode is not Mode.CONTRACTIVE:
        raise UsageError(
            "An implicit gradient needs a loop with one fixed point, and a core of mode "
            f"'{config.mode}' has none that is certified; use gradient kind full or truncated, or "
            "core mode contractive."
        )


def constant(tree: Tree) -> Tree:
    """The same tree, its arrays without gradient; what is no array stays what it is."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, tree)


def with_full_gradient(tree: Tree) -> Tree:
    """The same tree with every `LoopGradient` in it replaced by the full one.

    For acting and analysis: derivatives are then those of the loops that are run, in forward mode
    too, which the implicit gradient does not have.
    """
    return jax.tree.map(
        lambda x: FULL if isinstance(x, LoopGradient) else x,
        tree,
        is_leaf=lambda x: isinstance(x, LoopGradient),
    )


def fixed_point(
    update: AbstractUpdate, h: Float[Array, "*state"], gradient: LoopGradient
) -> Float[Array, "*state"]:
    r"""h itself, with the derivative that the update's fixed point has there.

    At $h^* = F_\theta(h^*)$ the implicit function theorem gives, for a cotangent v,

    $$\Big(\frac{\partial h^*}{\partial\theta}\Big)^{\!\top} v =
      \Big(\frac{\partial F}{\partial\theta}\Big)^{\!\top} w, \qquad
      w = (I - J^\top)^{-1} v = \sum_{n \ge 0} (J^\top)^n v, \qquad
      J = \frac{\partial F}{\partial h},$$

    with the series cut after `terms` terms or once a term is small. Where F contracts at ρ < 1 in a
    norm, the terms shrink at least as ρ^n in its dual norm, so the part cut off is at most
    ρ/(1−ρ) times the last term. Everything is evaluated at h: the further it is from the fixed
    point, the further is the result from the derivative there.

    Args:
        update: F with its weights and injected inputs, which get the derivative.
        h: the final state of an iteration, of the state's shape; it gets none.
        gradient: number of terms and tolerance.

    Returns:
        h, of the same shape. Reverse mode alone, once.

    Source: Bai, Kolter and Koltun 2019, deep equilibrium models (arXiv 1909.01377), theorem 1; the
        series instead of a solver, Geng et al. 2021 (arXiv 2111.05177).
    """
    h, still = constant(h), constant(update)
    # (∂F/∂θ)ᵀ is left to ordinary differentiation of one more loop at h, so that a batch adds up
    # the derivatives of shared weights as it goes; only w is computed here.
    return _solved(update(h), still, h, gradient)


@eqx.filter_custom_vjp
def _solved(after, update, h, gradient):
    """h; its cotangent v becomes w for `after`, which is F(h)."""
    return h


@_solved.def_fwd
def _forward(perturbed, after, update, h, gradient):
    return h, None


@_solved.def_bwd
def _backward(residuals, cotangent, perturbed, after, update, h, gradient):
    _, pull = jax.vjp(update, h)
    return _neumann(lambda w: pull(w)[0], cotangent, gradient)


def _neumann(transposed, v: Float[Array, "*state"], gradient: LoopGradient) -> Array:
    """Σ_n (Jᵀ)^n v, ended by number of terms or tolerance; a NaN ends it too, and stays."""
    smallest = gradient.tolerance * norms.two(v)

    def goes_on(carry):
        _, term, count = carry
        return (count < gradient.terms) & (norms.two(term) > smallest)

    def body(carry):
        total, term, count = carry
        term = transposed(term)
        return total + term, term, count + 1

    return jax.lax.while_loop(goes_on, body, (v, v, jnp.ones((), jnp.int32)))[0]
