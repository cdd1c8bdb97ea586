"""Environments whose every step is known, and world models that imagine them exactly."""

from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from known_depth import Loopless

from loopwm.agents import PolicyAgent
from loopwm.envs import Spaces
from loopwm.models import CategoricalPolicy, GaussianPolicy, Networks, Normalizer, ValueConfig
from loopwm.models.value import Critic
from loopwm.models.world_model import Outcome

SMALL = ValueConfig(hidden=4)


class Cart(gym.Env):
    """Two numbers: a speed that stays, and a place that moves by it; pays minus the place.

    Its task ends when the place is over 4.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, speed: float = 1.0, goal: float = 4.0):
        self.speed, self.goal = speed, goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.place = 0.25 * float(self.np_random.integers(1, 4))
        return self._observation(), {}

    def step(self, action: np.ndarray):
        self.place += self.speed
        return self._observation(), -self.place, self.place > self.goal, False, {}

    def _observation(self) -> np.ndarray:
        return np.asarray([self.speed, self.place], np.float32)


class ExactCart(Loopless):
    """Imagines `Cart`, but for a drift of the place; rewards are over the largest of 8."""

    drift: float = eqx.field(static=True, default=0.0)
    goal: float = eqx.field(static=True, default=4.0)

    def transition(self, z, u, rule=None):
        """The place moves by the speed."""
        following = z.at[1].add(z[0] + self.drift)
        return Loopless.transition(self, following, u, rule)

    def outcome(self, z, u, z_next) -> Outcome:
        """Minus the place, and whether it is over the goal."""
        logit = jnp.where(z_next[1] > self.goal, -50.0, 50.0)
        return Outcome(reward=-z_next[1] / 8.0, continuation_logit=logit)


class Ticker(gym.Env):
    """A picture that moves to the right by a pixel a step."""

    observation_space = gym.spaces.Box(0, 255, (16, 17, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.picture = self.np_random.integers(0, 256, (16, 17, 3), np.uint8)
        return self.picture, {}

    def step(self, action: int):
        self.picture = np.roll(self.picture, 1, axis=1)
        return self.picture, 0.0, False, False, {}


class ExactTicker(Loopless):
    """Imagines `Ticker`."""

    latent: int = eqx.field(static=True, default=16 * 17 * 3)

    def transition(self, z: Float[Array, " latent"], u, rule=None):
        """The picture moves."""
        moved = jnp.roll(z.reshape(16, 17, 3), 1, axis=1).ravel()
        return Loopless.transition(self, moved, u, rule)


def policy_agent(model: Any, source: Any) -> PolicyAgent:
    """An untrained policy beside a model whose latent states are normalised observations.

    Nothing is normalised but by the bounds of images.
    """
    spaces = Spaces.of_source(source)
    layout, scaling = spaces.action.layout, spaces.observation.scaling()
    size, key = spaces.observation.size, jax.random.key(0)
    if layout.groups is None:
        policy = GaussianPolicy(size, layout.size, SMALL, key=key)
    else:
        policy = CategoricalPolicy(size, layout.groups, SMALL, key=key)
    critic = Critic(size, layout.size, SMALL, key=key)
    normalizer = Normalizer.create(size, scaling.offset, scaling.width)
    return PolicyAgent(
        networks=Networks(world_model=model, critic=critic, policy=policy),
        normalizer=jax.tree.map(lambda x: np.asarray(x, np.float32), normalizer),
        spaces=spaces,
    )
