"""The inner loop: apply an update until the depth rule is met."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from loopwm.core.depth import AbstractDepthRule, FixedDepth
from loopwm.core.solution import RESULTS, LoopStats, Solution


class AbstractUpdate(eqx.Module):
    """A map h → h⁺ with its input bound, and what is certified about it."""

    @abc.abstractmethod
    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, arrays of the state's shape."""

    @abc.abstractmethod
    def start(self) -> Float[Array, "*state"]:
        """h_0, the state before the first loop."""

    @abc.abstractmethod
    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """The norm in which the update contracts, of an array of the state's shape."""

    @abc.abstractmethod
    def rate(self) -> Float[Array, ""]:
        """ρ, a bound of the contraction rate in `norm`; 1 or more means uncertified."""

    @abc.abstractmethod
    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """η, a bound in `norm` of the rounding error made by one application at h."""

    def error_bound(self, residual: Float[Array, ""], eta: Float[Array, ""]) -> Float[Array, ""]:
        r"""A-posteriori bound of the distance to the fixed point.

        $$\|h_t - h^*\| \le \frac{\rho}{1-\rho}\|h_t - h_{t-1}\| + \frac{\eta}{1-\rho}.$$

        Args:
            residual: ‖h_t − h_{t−1}‖ in `norm`, scalar.
            eta: rounding of the last loop from `rounding(h_{t−1})`, scalar.

        Returns:
            The bound, scalar; infinite where the rate is not below 1.
        """
        rate = self.rate()
        gap = jnp.where(rate < 1.0, 1.0 - rate, 1.0)
        return jnp.where(rate < 1.0, (rate * residual + eta) / gap, jnp.inf)


class LoopState(eqx.Module):
    """State of the iteration."""

    h: Float[Array, "*state"]
    """Latest state h_t: (width,), (*grid, width) or (tokens, width)."""
    previous: Float[Array, "*state"]
    """State before it, h_{t−1}, of the same shape."""
    loops: Int[Array, ""]
    """t, scalar."""
    done: Bool[Array, ""]
    """Whether the depth rule has been met."""


def init(h: Float[Array, "*state"]) -> LoopState:
    """State before the first loop, from h_0."""
    return LoopState(h, h, jnp.zeros((), jnp.int32), jnp.zeros((), bool))


def step(update: AbstractUpdate, state: LoopState) -> LoopState:
    """One loop; a state that is done stays as it is, so that a batch may mix depths."""
    new = update(state.h)
    keep = state.done
    return LoopState(
        h=jnp.where(keep, state.h, new),
        previous=jnp.where(keep, state.previous, state.h),
        loops=state.loops + jnp.where(keep, 0, 1),
        done=keep,
    )


def terminate(update: AbstractUpdate, rule: AbstractDepthRule, state: LoopState) -> LoopState:
    """Asks the depth rule whether the state is done."""
    residual, bound = _measure(update, state)
    done = state.done | rule.terminate(state.loops, residual, bound)
    return eqx.tree_at(lambda s: s.done, state, done)


def postprocess(update: AbstractUpdate, state: LoopState) -> Solution[Float[Array, "*state"]]:
    """The solution: h_T with loops used, residual, error bound and how it ended."""
    residual, bound = _measure(update, state)
    ended = RESULTS.where(state.done, RESULTS.successful, RESULTS.max_depth_reached)
    finite = jnp.all(jnp.isfinite(state.h))
    return Solution(
        value=state.h,
        result=RESULTS.where(finite, ended, RESULTS.nonfinite),
        stats=LoopStats(loops=state.loops, residual=residual, error_bound=bound),
    )


def _measure(update: AbstractUpdate, state: LoopState) -> tuple[Array, Array]:
    residual = update.norm(state.h - state.previous)
    return residual, update.error_bound(residual, update.rounding(state.previous))


def iterate(
    update: AbstractUpdate, h: Float[Array, "*state"], rule: AbstractDepthRule
) -> Solution[Float[Array, "*state"]]:
    """Applies the update until the depth rule is met.

    Fixed and sampled depths run as a scan and can be differentiated in reverse; halting rules
    run as a while loop that ends with the slowest state of a batch, forward only.

    Args:
        update: the map h → h⁺ with its input bound.
        h: h_0, of the state's shape.
        rule: how many loops.

    Returns:
        h_T, of the same shape, with its statistics.
    """
    state = init(h)
    if isinstance(rule, FixedDepth):
        state = _scan_fixed(update, state, rule.max_depth)
    elif rule.forward_only:
        state = _while(update, state, rule)
    else:
        state = _scan_masked(update, state, rule)
    return postprocess(update, state)


def _scan_fixed(update: AbstractUpdate, state: LoopState, depth: int) -> LoopState:
    def body(carry, _):
        h, _previous = carry
        return (update(h), h), None

    (h, previous), _ = jax.lax.scan(body, (state.h, state.previous), None, depth)
    return LoopState(h, previous, jnp.asarray(depth, jnp.int32), jnp.ones((), bool))


def _scan_masked(update: AbstractUpdate, state: LoopState, rule: AbstractDepthRule) -> LoopState:
    def body(current, _):
        return terminate(update, rule, step(update, current)), None

    return jax.lax.scan(body, state, None, rule.max_depth)[0]


def _while(update: AbstractUpdate, state: LoopState, rule: AbstractDepthRule) -> LoopState:
    def goes_on(current: LoopState) -> Bool[Array, ""]:
        # A NaN never meets a tolerance and would hold up its whole batch.
        finite = jnp.all(jnp.isfinite(current.h))
        return ~current.done & finite & (current.loops < rule.max_depth)

    return jax.lax.while_loop(
        goes_on, lambda current: terminate(update, rule, step(update, current)), state
    )
