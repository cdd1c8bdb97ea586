r"""Lyapunov exponents: the mean logarithmic growth of small differences along a trajectory.

The map that is followed is the caller's: the inner loop h → h⁺ under one input, or the outer map
z, u → z' under a sequence of actions, an imagined rollout. The two say different things, and a
certificate of the inner loop says nothing about the outer exponents. Level: `empirical`, of this
trajectory and these many steps.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.stability.bounds import Level
from loopwm.stability.trajectories import VectorMap, differentiating, vector_map


@dataclasses.dataclass(frozen=True)
class LyapunovExponents:
    """Finite-time Lyapunov exponents of one trajectory, in nats a step; level `empirical`."""

    exponents: Float[np.ndarray, " k"]
    """λ_1 ≥ λ_2 ≥ ..., shape (k,): above 0 nearby trajectories part, below 0 they meet; −inf where
    the map forgets a direction entirely, NaN when the trajectory or its derivative became NaN."""
    running: Float[np.ndarray, "steps k"]
    """The same averages after 1, 2, ... steps, shape (steps, k); they show what is settled."""
    final_state: Float[np.ndarray, "..."]
    """Where the trajectory ended, in the state's shape, float64."""
    steps: int
    """Steps averaged over."""
    warmup: int
    """Steps done before."""
    dtype: str
    """Type that the map computed in."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""

    @property
    def drift(self) -> float:
        """How far any running average was from the end result in the last half of the steps."""
        late = self.running[len(self.running) // 2 :]
        with np.errstate(invalid="ignore"):  # −inf − (−inf) is NaN: there is no such distance
            return float(np.max(np.abs(late - self.exponents)))


def lyapunov_exponents(
    step: Callable[..., object],
    state: Array | np.ndarray,
    *,
    steps: int,
    k: int = 1,
    inputs: Array | np.ndarray | None = None,
    warmup: int = 0,
    key: PRNGKeyArray,
) -> LyapunovExponents:
    r"""The k largest Lyapunov exponents along the trajectory from a state.

    With $J_t$ the Jacobian at step t and $Q_0$ random, $J_t Q_t = Q_{t+1} R_{t+1}$ (QR), the
    exponents are $\lambda_i = \frac{1}{T} \sum_t \log |(R_t)_{ii}|$. $J_t$ is applied, not formed.

    Args:
        step: the inner loop h → h⁺; with inputs the outer map (z, u) → z'.
        state: first state, any shape, float32 or float64.
        steps: T, number of steps averaged over, at least 1.
        k: how many exponents.
        inputs: what `step` gets beside the state, shape (warmup + steps, *input), such as the
            embedded actions of an imagined rollout.
        warmup: steps before, in which the trajectory settles and the directions turn.
        key: PRNG key for the first directions.

    Returns:
        The exponents with their running averages.

    Raises:
        UsageError: the map cannot be repeated or differentiated, or an argument is out of range.

    Source: Benettin, Galgani, Giorgilli and Strelcyn (1980), "Lyapunov characteristic exponents for
        smooth dynamical systems and for Hamiltonian systems; a method for computing all of them",
        Meccanica 15.
    """
    if steps < 1 or warmup < 0:
        raise UsageError(f"steps is {steps} and warmup {warmup}; give at least 1 and 0.")
    if inputs is not None and (np.ndim(inputs) < 1 or len(inputs) != warmup + steps):
        raise UsageError(
            f"The inputs have shape {np.shape(inputs)}; pass {warmup + steps} along the first axis,"
            " one for each step and each step of the warm-up."
        )
    first = () if inputs is None else (jnp.asarray(inputs[0]),)
    mapped, h = vector_map(step, state, *first)
    if not 1 <= k <= h.size:
        raise UsageError(f"k is {k}; give a number from 1 to {h.size}, the state's size.")
    start = np.asarray(jax.random.normal(key, (h.size, k)), np.float64)
    with differentiating(), jax.enable_x64(True):
        if inputs is not None:
            inputs = jnp.asarray(inputs)
            if jnp.issubdtype(inputs.dtype, jnp.floating):
                inputs = inputs.astype(mapped.dtype)
        outputs = _exponents(mapped, h, np.linalg.qr(start)[0], inputs, steps, warmup)
    running, final = map(np.asarray, outputs)
    order = np.argsort(-running[-1])
    return LyapunovExponents(
        exponents=running[-1][order],
        running=running[:, order],
        final_state=final.reshape(np.shape(state)),
        steps=steps,
        warmup=warmup,
        dtype=mapped.dtype,
    )


@eqx.filter_jit
def _exponents(
    mapped: VectorMap,
    h: Array | np.ndarray,
    basis: Array | np.ndarray,
    inputs: Array | None,
    steps: int,
    warmup: int,
) -> tuple[Array, Array]:
    """Running averages of log |R_ii|, shape (steps, k), and the last state."""

    def advance(carry, given):
        state, directions = carry
        further = () if given is None else (given,)
        after, tangent = jax.linearize(lambda x: mapped(x, *further), state)
        moved = jax.vmap(tangent, in_axes=1, out_axes=1)(directions)
        directions, triangle = jnp.linalg.qr(moved)
        return (after, directions), jnp.log(jnp.abs(jnp.diagonal(triangle)))

    carry = (jnp.asarray(h), jnp.asarray(basis))
    (final, _), logs = jax.lax.scan(advance, carry, inputs, warmup + steps)
    counts = jnp.arange(1.0, steps + 1.0)[:, None]
    return jnp.cumsum(logs[warmup:], axis=0) / counts, final
