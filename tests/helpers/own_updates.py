"""Updates of a user's own, as `loopwm stability own_updates:NAME` gets them."""

import equinox as eqx
import jax
import jax.numpy as jnp

from loopwm.stability import UpperBound

state = jnp.zeros(3)


class Half(eqx.Module):
    """h/2 + 1, with a bound that is known."""

    weight: jax.Array

    def __call__(self, h: jax.Array) -> jax.Array:
        """One loop."""
        return self.weight * h + 1.0

    def lipschitz(self) -> UpperBound:
        """The bound."""
        return UpperBound(0.5)


def certified():
    """A module that is certified."""
    return Half(jnp.asarray(0.5)), state


def uncertified():
    """A function nothing is known of, whose fixed point can be verified."""
    return lambda h: jnp.sin(h) * 0.75 + 0.5, state


def raises():
    """Fails."""
    raise ValueError("no weights here. None at all")


def nothing():
    """Returns nothing."""


def no_state():
    """Returns an update alone."""
    return certified()[0]


def words():
    """Returns a state that is no array."""
    return certified()[0], "zero"


def dropout():
    """Has dropout that is switched on."""
    return eqx.nn.Sequential([eqx.nn.Dropout(0.5)]), state


def stateful():
    """Keeps state between calls."""
    return eqx.nn.BatchNorm(3, "batch", mode="batch"), state


def nonsquare():
    """Changes the shape."""
    return lambda h: jnp.concatenate([h, h]), state


def nan():
    """Has NaN weights."""
    return Half(jnp.asarray(float("nan"))), state


def integers():
    """Has integer weights."""
    return Half(jnp.asarray(1)), state


def integer_state():
    """Has a state of integers."""
    return certified()[0], jnp.zeros(3, jnp.int32)


def low_precision():
    """Has bfloat16 weights."""
    return Half(jnp.asarray(0.5, jnp.bfloat16)), state


def changes_type():
    """Returns another type than it gets."""
    return lambda h: h.astype(jnp.float16), state


def random():
    """Draws random numbers."""
    return lambda h: h + jax.random.normal(jax.random.key(0), h.shape), state


class BadBound(Half):
    """Cannot say its bound."""

    def lipschitz(self) -> UpperBound:
        """Fails."""
        raise RuntimeError("not today")


def bad_bound():
    """Has a bound that fails."""
    return BadBound(jnp.asarray(0.5)), state
