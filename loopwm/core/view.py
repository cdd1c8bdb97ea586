"""State of an iteration, and what a depth rule sees of it."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from loopwm.core.update import AbstractUpdate


class LoopState(eqx.Module):
    """State of the iteration."""

    h: Float[Array, "*state"]
    """Latest state h_t: (width,), (*grid, width) or (tokens, width)."""
    previous: Float[Array, "*state"]
    """State before it, h_{t−1}, of the same shape."""
    before: Float[Array, "*state"]
    """State before that, h_{t−2}, of the same shape; h_0 while t is below 2."""
    loops: Int[Array, ""]
    """t, scalar."""
    streak: Int[Array, ""]
    """Consecutive loops, up to this one, at which the rule's condition held, scalar."""
    done: Bool[Array, ""]
    """Whether the depth rule has been met."""


class LoopView(eqx.Module):
    """What a depth rule may look at after a loop; a quantity is computed when it is looked at."""

    update: AbstractUpdate
    """The update that is iterated."""
    state: LoopState
    """The state after the loop."""

    @property
    def h(self) -> Float[Array, "*state"]:
        """h_t, of the state's shape."""
        return self.state.h

    @property
    def loops(self) -> Int[Array, ""]:
        """t: loops done so far, scalar, at least 1."""
        return self.state.loops

    @property
    def residual(self) -> Float[Array, ""]:
        """‖h_t − h_{t−1}‖ in the update's norm, scalar."""
        return self.update.norm(self.state.h - self.state.previous)

    @property
    def second_difference(self) -> Float[Array, ""]:
        """‖h_t − 2h_{t−1} + h_{t−2}‖ in the update's norm, scalar; infinite at t = 1."""
        # The difference of differences: 2h would lose digits where the state hardly moves.
        latest = self.state.h - self.state.previous
        change = latest - (self.state.previous - self.state.before)
        return jnp.where(self.state.loops < 2, jnp.inf, self.update.norm(change))

    @property
    def error_bound(self) -> Float[Array, ""]:
        """Certified bound of ‖h_t − h*‖ in the update's norm, scalar; infinite if uncertified."""
        eta = self.update.rounding(self.state.previous)
        return self.update.error_bound(self.residual, eta)
