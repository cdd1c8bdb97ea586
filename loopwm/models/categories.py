"""Arithmetic of one-hot groups, one behind the other: what categorical actions are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from loopwm.actions import ActionLayout

Groups = tuple[int, ...]
"""Number of categories of each group."""


@functools.cache
def _places(
    groups: Groups,
) -> tuple[Int[np.ndarray, "groups most"], Bool[np.ndarray, "groups most"]]:
    """Index of each category of each group in the vector, and which of them there are."""
    counts, most = np.asarray(groups), max(groups)
    first = np.cumsum(counts) - counts
    there = np.arange(most) < counts[:, None]
    return np.where(there, first[:, None] + np.arange(most), 0), there


def rows(x: Float[Array, "*batch size"], groups: Groups, fill: float) -> Float[Array, "*lead most"]:
    """A row a group, shape (*batch, groups, most); `fill` where a group has fewer categories.

    A single group is a row already and gets no axis: (*batch, most).
    """
    if len(groups) == 1:
        return x
    if len(set(groups)) == 1:
        return x.reshape(*x.shape[:-1], len(groups), groups[0])
    index, there = _places(groups)
    return jnp.where(there.reshape((1,) * (x.ndim - 1) + there.shape), x[..., index], fill)


def joined(x: Float[Array, "*lead most"], groups: Groups) -> Float[Array, "*batch size"]:
    """The vector of shape (*batch, size) whose rows are given; what was filled in is left out."""
    if len(groups) == 1:
        return x
    flat = x.reshape(*x.shape[:-2], -1)
    return flat if len(set(groups)) == 1 else flat[..., np.flatnonzero(_places(groups)[1])]


def counts(groups: Groups) -> Float[np.ndarray, " size"]:
    """Number of categories of the group that each entry belongs to, shape (size,)."""
    return np.repeat(groups, groups).astype(np.float64)


def log_softmax(logits: Float[Array, " size"], groups: Groups) -> Float[Array, " size"]:
    """Log-probabilities of every group's categories, shape (size,)."""
    return joined(jax.nn.log_softmax(rows(logits, groups, -jnp.inf)), groups)


def one_hot(index: Int[Array, "*rows"], groups: Groups) -> Float[Array, "*batch size"]:
    """Vectors of shape (*batch, size) with a 1 at the given category of each row of `rows`."""
    return joined(jax.nn.one_hot(index, max(groups)), groups)


def most_likely(x: Float[Array, "*batch size"], groups: Groups) -> Float[Array, "*batch size"]:
    """One-hot groups at each group's largest entry, shape (*batch, size)."""
    return one_hot(jnp.argmax(rows(x, groups, -jnp.inf), axis=-1), groups)


def draw(
    logits: Float[Array, "*batch size"],
    groups: Groups,
    count: int | None = None,
    *,
    key: PRNGKeyArray,
) -> Float[Array, "*drawn size"]:
    """One-hot groups drawn independently of each other.

    Args:
        logits: of every group, side by side, shape (*batch, size).
        groups: number of categories of each.
        count: draws; a single one without an axis of its own when left out.
        key: PRNG key.

    Returns:
        Samples of shape (*batch, size) or (count, *batch, size).
    """
    table = rows(logits, groups, -jnp.inf)
    lead = () if count is None else (count,)
    index = jax.random.categorical(key, table, shape=(*lead, *table.shape[:-1]))
    return one_hot(index, groups)


def uniform_actions(
    layout: ActionLayout, count: int, *, key: PRNGKeyArray
) -> Float[Array, "count size"]:
    """Encoded actions, shape (count, size): each category alike, or uniform in [−1, 1]."""
    if layout.groups is None:
        return jax.random.uniform(key, (count, layout.size), minval=-1.0, maxval=1.0)
    categories = np.asarray(layout.groups, np.int32)
    drawn = jax.random.randint(key, (count, len(categories)), 0, categories[None])
    return one_hot(drawn[:, 0] if len(categories) == 1 else drawn, layout.groups)
