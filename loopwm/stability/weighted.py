r"""The weighted 2-norm in which a retained update contracts.

For the update $h^+ = \bar a \odot h + (1-\bar a) \odot g(h)$ with a $\gamma$-Lipschitz $g$,
$\gamma<1$, put $c_i = \bar a_i + (1-\bar a_i)\gamma$ and $p_i = 1/((1-\bar a_i)c_i)$. By
Cauchy and Schwarz,
$(\bar a x + (1-\bar a) y)^2 \le c(\bar a x^2 + (1-\bar a) y^2/\gamma)$;
multiplied by $p$ and summed with $\|y\|_2 \le \gamma\|x\|_2$ the right side is
$\sum_i p_i c_i^2 x_i^2$. So the update contracts at $\rho = \max_i c_i$ in
$\|x\|_P = (\sum_i p_i x_i^2)^{1/2}$. In the plain 2-norm the statement is false when $\bar a$
differs from channel to channel.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def channel_rates(
    retention: Float[Array, " width"], gamma: float | Float[Array, ""]
) -> Float[Array, " width"]:
    """Per-channel rate c = ā + (1 − ā)γ, shape (width,), in (0, 1) when ā and γ are."""
    return retention + (1.0 - retention) * gamma


def weights(
    retention: Float[Array, " width"], gamma: float | Float[Array, ""]
) -> Float[Array, " width"]:
    """Weights p = 1/((1 − ā)c) of the P-norm, shape (width,), all positive."""
    return 1.0 / ((1.0 - retention) * channel_rates(retention, gamma))


def norm(x: Float[Array, " width"], p: Float[Array, " width"]) -> Float[Array, ""]:
    """Weighted norm ‖x‖_P = √(Σ p x²); its gradient at 0 is taken as 0."""
    squared = jnp.sum(p * x * x)
    nonzero = squared != 0  # NaN counts as nonzero and comes out as NaN
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


def condition(p: Float[Array, " width"]) -> Float[Array, ""]:
    """κ = √(max p / min p): a P-norm statement holds in the 2-norm with this factor in front."""
    return jnp.sqrt(jnp.max(p) / jnp.min(p))
