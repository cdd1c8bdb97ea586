"""Returns along a sequence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def td_lambda(
    reward: Float[Array, " steps"],
    terminated: Bool[Array, " steps"] | Float[Array, " steps"],
    valid: Bool[Array, " steps"],
    next_value: Float[Array, " steps"],
    discount: float,
    trace: float,
) -> Float[Array, " steps"]:
    r"""TD(λ) targets along a sequence.

    $$G_t = r_t + \gamma (1 - d_t) \big[(1-\lambda) V_{t+1} + \lambda G_{t+1}\big]$$

    where the bracket is $V_{t+1}$ alone at the last valid step. Termination $d_t$ stops the
    bootstrap; truncation does not: it ends the sequence, and $V_{t+1}$ of the final observation
    stands in.

    Args:
        reward: r_t, shape (steps,), in the units of the value.
        terminated: d_t, shape (steps,), or the probability of it.
        valid: whether step t belongs to the episode, shape (steps,).
        next_value: V(o_{t+1}), shape (steps,).
        discount: γ.
        trace: λ.

    Returns:
        G_t, shape (steps,); meaningless where not valid.

    Source: Sutton and Barto 2018, equation 12.2 in recursive form.
    """
    follows = jnp.concatenate([valid[1:], jnp.zeros(1, bool)])

    def body(later, inputs):
        r, done, value, has_next = inputs
        bootstrap = jnp.where(has_next, (1.0 - trace) * value + trace * later, value)
        target = r + discount * (1.0 - done) * bootstrap
        return target, target

    inputs = (reward, terminated, next_value, follows)
    return jax.lax.scan(body, jnp.zeros(()), inputs, reverse=True)[1]
