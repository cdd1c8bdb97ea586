"""The inner loop: apply an update until the depth rule is met."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from loopwm.core.depth import AbstractDepthRule, FixedDepth, SampledDepth
from loopwm.core.gradient import FULL, GradientKind, LoopGradient, constant, fixed_point
from loopwm.core.solution import RESULTS, LoopStats, Solution
from loopwm.core.update import AbstractUpdate as AbstractUpdate
from loopwm.core.view import LoopState, LoopView

Found = TypeVar("Found")


def init(h: Float[Array, "*state"]) -> LoopState:
    """State before the first loop, from h_0."""
    none = jnp.zeros((), jnp.int32)
    return LoopState(h, h, h, loops=none, streak=none, done=jnp.zeros((), bool))


def step(update: AbstractUpdate, state: LoopState) -> LoopState:
    """One loop; a state that is done stays as it is, so that a batch may mix depths."""
    new = update(state.h)
    keep = state.done
    return LoopState(
        h=jnp.where(keep, state.h, new),
        previous=jnp.where(keep, state.previous, state.h),
        before=jnp.where(keep, state.before, state.previous),
        loops=state.loops + jnp.where(keep, 0, 1),
        streak=state.streak,
        done=keep,
    )


def terminate(update: AbstractUpdate, rule: AbstractDepthRule, state: LoopState) -> LoopState:
    """Asks the depth rule about the state, and counts for how many loops it has said yes."""
    met = rule.terminate(LoopView(update, state))
    streak = jnp.where(met, state.streak + 1, 0)
    done = state.done | (streak >= rule.patience)
    return eqx.tree_at(lambda s: (s.streak, s.done), state, (streak, done))


def postprocess(update: AbstractUpdate, state: LoopState) -> Solution[Float[Array, "*state"]]:
    """The solution: h_T with loops used, residual, error bound and how it ended."""
    view = LoopView(update, state)
    ended = RESULTS.where(state.done, RESULTS.successful, RESULTS.max_depth_reached)
    finite = jnp.all(jnp.isfinite(state.h))
    stats = LoopStats(state.loops, residual=view.residual, error_bound=view.error_bound)
    return Solution(
        value=state.h, result=RESULTS.where(finite, ended, RESULTS.nonfinite), stats=stats
    )


def iterate(
    update: AbstractUpdate,
    h: Float[Array, "*state"],
    rule: AbstractDepthRule,
    gradient: LoopGradient = FULL,
) -> Solution[Float[Array, "*state"]]:
    """Applies the update until the depth rule is met.

    Fixed and sampled depths run as a scan; halting rules run as a while loop that ends with the
    slowest state of a batch. With a full gradient, a while loop is forward only; with a truncated
    one, its loops are counted before the last k are run, and with an implicit one it is
    differentiated like any other.

    Args:
        update: the map h → h⁺ with its input bound.
        h: h_0, of the state's shape.
        rule: how many loops.
        gradient: how it is differentiated in reverse mode. An implicit gradient is meant for
            updates that contract, and gives h_0 none.

    Returns:
        h_T, of the same shape, with its statistics, which an implicit gradient takes for constant.
    """
    if gradient.kind is GradientKind.IMPLICIT:
        still = constant(update)
        state = _run(still, init(constant(h)), constant(rule))
        solution = postprocess(still, state)
        value = fixed_point(update, state.h, gradient)
        return Solution(value=value, result=solution.result, stats=solution.stats)
    if gradient.kind is GradientKind.TRUNCATED:
        state = _truncated(update, init(h), rule, gradient)
    else:
        state = _run(update, init(h), rule, gradient.checkpoint)
    return postprocess(update, state)


def unroll(
    update: AbstractUpdate,
    h: Float[Array, "*state"],
    depth: int,
    read: Callable[[Solution[Float[Array, "*state"]]], Found],
) -> Found:
    """What is read of the solution after 0, 1 … T loops: every depth in one program.

    Args:
        update: the map h → h⁺ with its input bound.
        h: h_0, of the state's shape.
        depth: T, largest number of loops.
        read: arrays of a solution. After t ≥ 1 loops it is what `iterate` gives with
            `FixedDepth(t)`; after none it holds h_0, and residual and bound are infinite.

    Returns:
        The arrays that `read` gives, each with a leading axis of length T + 1.

    Raises:
        UsageError: the depth is below 1.
    """
    length = FixedDepth(depth).max_depth + 1

    def body(state, _):
        ended = eqx.tree_at(lambda s: s.done, state, jnp.ones((), bool))
        solution = postprocess(update, ended)
        seen = [
            jnp.where(state.loops == 0, jnp.inf, measured)
            for measured in (solution.stats.residual, solution.stats.error_bound)
        ]
        stats = LoopStats(state.loops, *seen)
        return step(update, state), read(Solution(solution.value, solution.result, stats))

    return jax.lax.scan(body, init(h), None, length)[1]


def _run(
    update: AbstractUpdate, state: LoopState, rule: AbstractDepthRule, checkpoint: bool = False
) -> LoopState:
    if isinstance(rule, FixedDepth):
        return _scan_fixed(update, state, rule.max_depth, checkpoint)
    if rule.forward_only:
        return _while(update, state, rule)
    return _scan_masked(update, state, rule, checkpoint)


def _scan_fixed(
    update: AbstractUpdate, state: LoopState, depth: int, checkpoint: bool = False
) -> LoopState:
    def body(carry, _):
        h, _previous = carry
        return (update(h), h), None

    if checkpoint:
        body = jax.checkpoint(body, prevent_cse=False)
    (h, previous), _ = jax.lax.scan(body, (state.h, state.previous), None, depth)
    # No rule looks back at h_{T−2} here, so it is not carried. (A NaN would stop debug_nans.)
    unknown = jnp.full_like(h, jnp.inf)
    loops = state.loops + jnp.asarray(depth, jnp.int32)
    return LoopState(h, previous, unknown, loops, state.streak, jnp.ones((), bool))


def _scan_masked(
    update: AbstractUpdate, state: LoopState, rule: AbstractDepthRule, checkpoint: bool = False
) -> LoopState:
    def body(current, _):
        return terminate(update, rule, step(update, current)), None

    if checkpoint:
        body = jax.checkpoint(body, prevent_cse=False)
    return jax.lax.scan(body, state, None, rule.max_depth)[0]


def _while(update: AbstractUpdate, state: LoopState, rule: AbstractDepthRule) -> LoopState:
    def goes_on(current: LoopState) -> Bool[Array, ""]:
        # A NaN never meets a tolerance and would hold up its whole batch.
        finite = jnp.all(jnp.isfinite(current.h))
        return ~current.done & finite & (current.loops < rule.max_depth)

    return jax.lax.while_loop(
        goes_on, lambda current: terminate(update, rule, step(update, current)), state
    )


def _truncated(
    update: AbstractUpdate, state: LoopState, rule: AbstractDepthRule, gradient: LoopGradient
) -> LoopState:
    """All loops, of which the last k carry gradient; h_0 carries it if there are no others."""
    still, last = constant(update), gradient.loops
    if isinstance(rule, FixedDepth):
        first = max(rule.max_depth - last, 0)
        if first:
            state = constant(_scan_fixed(still, constant(state), first))
        return _scan_fixed(update, state, rule.max_depth - first, gradient.checkpoint)
    if isinstance(rule, SampledDepth):
        total, done = jnp.minimum(rule.depth, rule.max_depth), rule.depth <= rule.max_depth
    else:
        counted = _while(still, constant(state), constant(rule))
        total, done = counted.loops, counted.done
    first = jnp.maximum(total - last, 0)
    h, _ = jax.lax.while_loop(
        lambda carry: carry[1] < first,
        lambda carry: (still(carry[0]), carry[1] + 1),
        (constant(state.h), jnp.zeros_like(first)),
    )
    h = jnp.where(first == 0, state.h, constant(h))
    start = eqx.tree_at(lambda s: s.loops, init(h), first.astype(jnp.int32))
    rest = SampledDepth(depth=total, max_depth=last)
    state = _scan_masked(update, start, rest, gradient.checkpoint)
    return eqx.tree_at(lambda s: s.done, state, done)
