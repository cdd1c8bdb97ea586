"""Toy planning models whose best plans are known."""

import functools

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


class Torn(Depthless):
    """Pays u, and NaN beyond a half."""

    discount: float = eqx.field(static=True, default=1.0)
    action_size: int = eqx.field(static=True, default=1)

    def step(self, z, u):
        return Imagined(z, jnp.where(u[0] > 0.5, jnp.nan, u[0]), jnp.ones(()), jnp.ones(()))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jnp.zeros(self.action_size)


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

    def log_prior(self, z):
        return jnp.full(3, -jnp.log(3.0))


class Bandit(Depthless):
    """One step, then the end; each entry of u that is chosen pays its own reward."""

    rewards: jax.Array
    prior: jax.Array
    discount: float = eqx.field(static=True, default=0.9)
    action_size: int = eqx.field(static=True, default=4)

    def step(self, z, u):
        return Imagined(z, jnp.dot(self.rewards, u), jnp.zeros(()), jnp.full((), 3.0))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jax.nn.one_hot(0, self.action_size)

    def log_prior(self, z):
        return self.prior


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

    def log_prior(self, z):
        return jnp.full(2, -jnp.log(2.0))


class Code(Depthless):
    """Every step has one of three actions that pays 1; z counts the steps."""

    discount: float = eqx.field(static=True, default=1.0)
    action_size: int = eqx.field(static=True, default=3)

    def step(self, z, u):
        wanted = jnp.asarray([2, 0, 1, 1, 2, 0, 2, 1])[z[0].astype(int)]
        return Imagined(z + 1.0, u[wanted], jnp.ones(()), jnp.ones(()))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jax.nn.one_hot(0, 3)


class Lock(Depthless):
    """Pays 1 for actions 0, 3, 2, 1 in this order and then ends; z = (step, whether right so far).

    The critic knows how far it is.
    """

    discount: float = eqx.field(static=True, default=0.9)
    action_size: int = eqx.field(static=True, default=4)

    def step(self, z, u):
        right = z[1] * u[jnp.asarray([0, 3, 2, 1])[z[0].astype(int) % 4]]
        last = z[0] == 3.0
        new = jnp.stack([z[0] + 1.0, right])
        return Imagined(new, jnp.where(last, right, 0.0), jnp.where(last, 0.0, 1.0), jnp.ones(()))

    def value(self, z):
        return z[1] * 0.9 ** (3.0 - z[0])

    def propose(self, z, *, key):
        return jax.nn.one_hot(0, 4)

    def log_prior(self, z):
        return jnp.full(4, -jnp.log(4.0))


class Waves(Depthless):
    """Each action pays a sine of itself plus a slope: many local optima, the slope the way out."""

    discount: float = eqx.field(static=True, default=0.9)
    action_size: int = eqx.field(static=True, default=2)

    def step(self, z, u):
        reward = jnp.sum(jnp.sin(9.0 * u) + 0.3 * u)
        return Imagined(z + u, reward, jnp.ones(()), jnp.ones(()))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jnp.zeros(self.action_size)


@pytest.fixture(scope="session")
def toys():
    """The toy models by name."""
    kinds = (Constant, Regulator, Tempting, Bandit, Cliff, Code, Lock, Waves, Torn)
    return {kind.__name__.lower(): kind for kind in kinds}


# The compiler's optimisations take longer than all that is computed here.
QUICK = {"xla_backend_optimization_level": 0}


@functools.partial(eqx.filter_jit, compiler_options=QUICK)
def _plans(planner, model, z, warm_start, explore, keys):
    return jax.vmap(lambda key: planner(model, z, warm_start, explore, key=key))(keys)


@pytest.fixture(scope="session")
def plans():
    """Decisions under some keys, from a cold start; one program a planner and model."""

    def run(planner, model, z, *, count=32, explore=False, warm_start=None):
        start = planner.cold_start() if warm_start is None else warm_start
        keys = jax.random.split(jax.random.key(0), count)
        return _plans(planner, model, jnp.asarray(z), start, jnp.asarray(explore), keys)

    return run
