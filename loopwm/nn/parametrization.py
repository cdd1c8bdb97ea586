"""Constrained weights as nodes of the module tree, computed once and then carried as arrays."""

import abc
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.stability import UpperBound, exact_norm, gram_bound, scaled

Tree = TypeVar("Tree")


class AbstractParametrization(eqx.Module):
    """A trainable stand-in for an array that is a function of free parameters."""

    @abc.abstractmethod
    def value(self) -> Array:
        """Returns the array that it stands for."""


class SpectralCap(AbstractParametrization):
    r"""A matrix held at $\|W\|_2 \le c$ by capping: $W \min(1, c/\hat\sigma)$.

    $\hat\sigma$ is the Gram-iteration upper bound, so the cap holds at every step of training,
    and a matrix already inside it is left alone.
    """

    free: Float[Array, "rows columns"]
    """Unconstrained matrix, shape (rows, columns)."""
    cap: float = eqx.field(static=True)
    """c: the largest spectral norm allowed."""
    iterations: int = eqx.field(static=True, default=6)
    """Gram steps."""

    def value(self) -> Float[Array, "rows columns"]:
        """The capped matrix, shape (rows, columns)."""
        bound = gram_bound(self.free, self.iterations).value
        over = bound > self.cap
        capped = self.free * jnp.where(over, self.cap / jnp.where(over, bound, 1.0), 1.0)
        return capped.astype(self.free.dtype)


def array_of(weight: Array | AbstractParametrization) -> Array:
    """The array behind a weight, whether it is constrained or already resolved."""
    return weight.value() if isinstance(weight, AbstractParametrization) else weight


@eqx.filter_jit
def _value(weight: Array | AbstractParametrization) -> Array:
    """`array_of` as one program, where calling it eagerly would compile dozens."""
    return array_of(weight)


def numbers_of(weight: Array | AbstractParametrization) -> np.ndarray:
    """The numbers of a weight as the loop uses them, for bounds outside JAX.

    Another program may compute a constrained weight with other rounding; see `in_every_program`.
    """
    return np.asarray(_value(weight) if isinstance(weight, AbstractParametrization) else weight)


def spectral_norm_of(weight: Array | AbstractParametrization) -> UpperBound:
    """Upper bound of ‖W‖₂ by float64 singular values.

    For a constrained weight it covers every way in which float32 may round the constraint, which
    is one factor of the whole matrix.
    """
    return in_every_program(exact_norm(numbers_of(weight)), weight)


def in_every_program(
    bound: UpperBound, weight: Array | AbstractParametrization, slack: float = 2e-6
) -> UpperBound:
    """A bound from the numbers of a weight, for every program that computes it again.

    Args:
        bound: from `numbers_of`.
        weight: the weight; what is no constraint is the same number everywhere.
        slack: how far the bound may move, relatively; 2e-6 for one float32 factor of all entries.
    """
    return scaled(bound, 1.0 + slack) if isinstance(weight, AbstractParametrization) else bound


def resolve(tree: Tree) -> Tree:
    """Replaces every constrained weight of a module by its array.

    Call it once per forward pass, outside loops and rollouts: inside, the constraint would be
    computed again at each iteration. Gradients flow through.
    """

    def is_constrained(node: object) -> bool:
        return isinstance(node, AbstractParametrization)

    return jax.tree.map(
        lambda node: node.value() if is_constrained(node) else node, tree, is_leaf=is_constrained
    )
