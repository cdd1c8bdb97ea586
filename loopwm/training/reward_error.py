"""The reward's loss: small rewards count beside large ones, and means stay means."""

import jax.numpy as jnp
from jaxtyping import Array, Float

FLAT = 0.1
"""Smallest curvature; there the loss is the squared error, within 1 % of it."""


def reward_error(
    predicted: Float[Array, "*shape"],
    reward: Float[Array, "*shape"],
    curvature: Float[Array, ""] | float,
) -> Float[Array, "*shape"]:
    r"""Bregman divergence of the rewards for a weight that falls with their size.

    With $s = \sinh A$, $x = s \hat r$ and $y = s r$,

    $$D(r, \hat r) = \frac{2}{A^2}
      \Big( y\,(\arctan y - \arctan x) + \tfrac12 \ln \frac{1 + x^2}{1 + y^2} \Big),
      \qquad \frac{\partial D}{\partial \hat r}
      = \frac{2 s^2}{A^2} \cdot \frac{\hat r - r}{1 + x^2}.$$

    Near $\hat r = r$ it is the squared error of asinh(s r)/A, so that errors of small rewards
    count although there are large ones; for A → 0 it is the squared error. As with every Bregman
    divergence, what minimises its mean is the mean reward. The squared error of asinh(s r)/A has
    another minimiser: a reward of 1 that comes once in 25 steps would be predicted as 0.004 for
    A = 4.4, and not as 0.04.

    Args:
        predicted: r̂, over the largest absolute reward.
        reward: r, the same.
        curvature: A, scalar, at least `FLAT`.

    Returns:
        D, at least 0 but for rounding, and 0 where the two are equal.

    Source: Banerjee et al. 2005, "Clustering with Bregman divergences" (means as minimisers).
    """
    bend = jnp.asarray(curvature)
    x, y = predicted * jnp.sinh(bend), reward * jnp.sinh(bend)
    # Differences are formed before the functions are taken: near x = y little is left of them.
    turn = jnp.arctan2(y - x, 1.0 + x * y)
    fall = jnp.log1p((x - y) * (x + y) / (1.0 + y * y))
    return 2.0 / bend**2 * (y * turn + 0.5 * fall)
