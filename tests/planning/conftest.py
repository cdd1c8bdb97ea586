"""Toy planning models whose best plans are known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from loopwm.planning import AbstractPlanningModel, Imagined


class Depthless(AbstractPlanningModel):
    """A model without loops: the same at every depth."""

    def at_depth(self, depth):
        return self


class Constant(Depthless):
    """The same reward and continuation at every step; z counts the steps."""

    reward: float
    continuation: float
    terminal: float
    discount: float = eqx.field(static=True, default=0.9)
    action_size: int = eqx.field(static=True, default=1)

    def step(self, z, u):
        return Imagined(z + 1.0, jnp.asarray(self.reward), jnp.asarray(self.continuation), z[0])

    def value(self, z):
        return self.terminal * z[0]

    def propose(self, z, *, key):
        return jnp.zeros(self.action_size)


class Regulator(Depthless):
    """Linear-quadratic: z' = z + u, reward −z'²; the best first action is clip(−z)."""

    policy: float = 0.0
    discount: float = eqx.field(static=True, default=1.0)
    action_size: int = eqx.field(static=True, default=1)

    def step(self, z, u):
        new = z + u
        return Imagined(new, -jnp.sum(new**2), jnp.ones(()), jnp.ones(()))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jnp.full(self.action_size, self.policy)


class Tempting(Depthless):
    """Three actions; z = (last action, step). 0 pays .3 at once; 2 pays 1, but only after 1."""

    discount: float = eqx.field(static=True, default=1.0)
    action_size: int = eqx.field(static=True, default=3)

    def step(self, z, u):
        action = jnp.argmax(u).astype(jnp.float32)
        late = jnp.where((z[0] == 1) & (action == 2), 1.0, 0.0)
        reward = jnp.where(action == 0, 0.3, late)
        return Imagined(jnp.stack([action, z[1] + 1]), reward, jnp.ones(()), jnp.ones(()))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jax.nn.one_hot(0, 3)


class Cliff(Depthless):
    """Action 0 pays 1 and ends the task; action 1 pays .4 and goes on."""

    ends: float = 1.0
    discount: float = eqx.field(static=True, default=1.0)
    action_size: int = eqx.field(static=True, default=2)

    def step(self, z, u):
        reward, goes_on = u[0] + 0.4 * u[1], 1.0 - self.ends * u[0]
        return Imagined(z, reward, goes_on, jnp.ones(()))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jax.nn.one_hot(0, 2)


@pytest.fixture(scope="session")
def toys():
    """The toy models by name."""
    return {"constant": Constant, "regulator": Regulator, "tempting": Tempting, "cliff": Cliff}
