"""A chain of n rigid links that swings in a plane, driven at its joints."""

import dataclasses
import math
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float, Float32

from loopwm.envs.arguments import drawn_as, real, whole
from loopwm.envs.depth import DepthTransitions
from loopwm.envs.drawing import draw_rods
from loopwm.errors import UsageError, as_clause

MOST_LINKS = 8
"""Longest chain that is offered: a longer one needs finer steps than `substeps` usually gives."""


@dataclasses.dataclass(frozen=True)
class Chain:
    r"""Mechanics of n point masses on massless rods, the first hung from a fixed point.

    With absolute angles θ (0 hanging down), mass m, rod length l and n_i = n − i + 1 masses from
    link i on, the kinetic energy is ½ ωᵀM(θ)ω and

    $$M_{ij} = m l^2 n_{\max(i,j)} \cos(θ_i - θ_j), \qquad
      V = -m g l \sum_i n_i \cos θ_i,$$
    $$\sum_j M_{ij} \dot ω_j = Q_i - m l^2 \sum_j n_{\max(i,j)} \sin(θ_i - θ_j) ω_j^2
      - m g l n_i \sin θ_i.$$

    A torque τ_i at joint i turns link i against link i − 1, so that Q_i = τ_i − τ_{i+1}. There is
    no friction. SI units: kg, m, s, rad, N·m, J.

    Source: Lagrange's equations, e.g. Goldstein, "Classical Mechanics", 3rd ed., sections 1.4–1.6.
    """

    links: int
    """n."""
    mass: float = 1.0
    """m of each bob, in kg."""
    length: float = 1.0
    """l of each rod, in m."""
    gravity: float = 9.81
    """g, in m/s²."""

    def holding(self) -> Float[np.ndarray, " links"]:
        """Torques in N·m at which each joint could hold what hangs beyond it out level.

        τ_i = m g l n_i (n_i + 1)/2, shape (links,).
        """
        beyond = self._beyond()
        return self.mass * self.gravity * self.length * beyond * (beyond + 1.0) / 2.0

    def acceleration(
        self,
        angle: Float[np.ndarray, "*batch links"],
        velocity: Float[np.ndarray, "*batch links"],
        torque: Float[np.ndarray, "*batch links"],
    ) -> Float[np.ndarray, "*batch links"]:
        """Angular accelerations in rad/s², shape (*batch, links).

        Args:
            angle: θ in rad, 0 hanging down, shape (*batch, links).
            velocity: ω in rad/s, same shape.
            torque: τ at the joints in N·m, same shape.

        Returns:
            dω/dt.
        """
        inertia, between = self._inertia(angle)
        force = torque - np.pad(torque[..., 1:], [(0, 0)] * (torque.ndim - 1) + [(0, 1)])
        turning = self._coupling() * np.sin(between)
        force = force - (turning * velocity[..., None, :] ** 2).sum(axis=-1)
        weight = self.mass * self.gravity * self.length * self._beyond()
        force = force - weight * np.sin(angle)
        return np.linalg.solve(inertia, force[..., None])[..., 0]

    def energy(
        self, angle: Float[np.ndarray, "*batch links"], velocity: Float[np.ndarray, "*batch links"]
    ) -> Float[np.ndarray, "*batch"]:
        """Kinetic and potential energy in J, zero potential at the height of the first joint."""
        inertia, _ = self._inertia(angle)
        moving = 0.5 * np.einsum("...i,...ij,...j->...", velocity, inertia, velocity)
        weight = self.mass * self.gravity * self.length * self._beyond()
        return np.asarray(moving - (weight * np.cos(angle)).sum(axis=-1))

    def advance(
        self,
        angle: Float[np.ndarray, "*batch links"],
        velocity: Float[np.ndarray, "*batch links"],
        torque: Float[np.ndarray, "*batch links"],
        *,
        time_step: float,
        substeps: int,
    ) -> tuple[Float[np.ndarray, "*batch links"], Float[np.ndarray, "*batch links"]]:
        """Integrates with the classical fourth-order Runge–Kutta method, the torque held.

        Args:
            angle: θ in rad, shape (*batch, links).
            velocity: ω in rad/s, same shape.
            torque: τ in N·m, same shape.
            time_step: seconds to advance, in all.
            substeps: Runge–Kutta steps of time_step/substeps seconds, one after the other.

        Returns:
            Angles, not wrapped, and velocities.
        """
        h = time_step / substeps

        def slope(state: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            return state[1], self.acceleration(state[0], state[1], torque)

        def moved(slopes: tuple[np.ndarray, np.ndarray], by: float):
            return angle + by * slopes[0], velocity + by * slopes[1]

        for _ in range(substeps):
            one = slope((angle, velocity))
            two = slope(moved(one, h / 2))
            three = slope(moved(two, h / 2))
            four = slope(moved(three, h))
            mean = [
                (a + 2.0 * b + 2.0 * c + d) / 6.0
                for a, b, c, d in zip(one, two, three, four, strict=True)
            ]
            angle, velocity = moved((mean[0], mean[1]), h)
        return angle, velocity

    def _beyond(self) -> np.ndarray:
        """Masses from each link on, n, n − 1, …, 1."""
        return np.arange(self.links, 0, -1.0)

    def _coupling(self) -> np.ndarray:
        """m l² n_max(i,j), shape (links, links)."""
        beyond = self._beyond()
        return self.mass * self.length**2 * np.minimum(beyond[:, None], beyond)

    def _inertia(self, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """M(θ) and θ_i − θ_j, shape (*batch, links, links)."""
        between = angle[..., :, None] - angle[..., None, :]
        return self._coupling() * np.cos(between), between


class NLinkPendulum(gym.Env[np.ndarray, Any]):
    """A chain of links that starts near hanging down and is paid for the height of its tip.

    Actions a in [−1, 1]^links are torques at the joints, held for a step: τ_i = strength·a_i times
    the torque at which joint i could hold the chain beyond it out level (`Chain.holding`). Entries
    outside are clipped. A step lasts `time_step` seconds, integrated in `substeps` Runge–Kutta
    steps. The reward is (1 + height of the tip/length of the chain)/2, between 0 (hanging) and 1
    (upright). Episodes end by truncation alone. `true_depth` is `substeps`, and 0 in the `info` of
    `reset`.

    Observations are float32, shape (3·links,): cos θ, sin θ, ω in rad/s; θ is 0 hanging down.
    After a step, ω is clipped to ± `speed_limit`, which keeps the observation bounded; below the
    limit nothing brakes. `state` is (θ, ω) in float64, shape (2, links); it may be set.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 20}

    def __init__(
        self,
        links: int = 2,
        substeps: int = 4,
        time_step: float = 0.05,
        strength: float = 0.5,
        speed_limit: float = 25.0,
        render_mode: str | None = None,
    ):
        """Checks the arguments.

        Args:
            links: number of links, 1 to 8.
            substeps: integrator steps in a step of the environment, at least 1.
            time_step: seconds a step, 0.001 to 0.1.
            strength: torque at a = 1, relative to holding the chain out level, 0 to 2; below 1
                the chain has to gain height by swinging.
            speed_limit: largest |ω| after a step, 1 to 100 rad/s.
            render_mode: `rgb_array`, `ansi` or None.

        Raises:
            UsageError: an argument is out of range.
        """
        self.chain = Chain(whole("links", links, 1, MOST_LINKS))
        self.substeps = whole("substeps", substeps, 1)
        self.time_step = real("time_step", time_step, 0.001, 0.1)
        self.strength = real("strength", strength, 0.0, 2.0)
        self.speed_limit = real("speed_limit", speed_limit, 1.0, 100.0)
        self.render_mode = drawn_as(render_mode, self.metadata)
        ones = np.ones(self.chain.links, np.float32)
        high = np.concatenate([ones, ones, np.float32(self.speed_limit) * ones])
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gym.spaces.Box(-ones, ones, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draws angles and speeds within ±0.1 of hanging still."""
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-0.1, 0.1, (2, self.chain.links))
        return _observed(*self.state), {"true_depth": 0}

    def step(self, action: Any):
        """Integrates one step under held torques."""
        given = np.asarray(action, np.float64)
        if given.shape != (self.chain.links,) or not np.isfinite(given).all():
            raise UsageError(
                f"The action is {as_clause(given.tolist())}; give {self.chain.links} finite "
                "numbers in [-1, 1]."
            )
        self.state = np.stack(self.moved(*self.state, given))
        reward = 0.5 * (1.0 - float(np.cos(self.state[0]).mean()))
        return _observed(*self.state), reward, False, False, {"true_depth": self.substeps}

    def moved(
        self,
        angle: Float[np.ndarray, "*batch links"],
        velocity: Float[np.ndarray, "*batch links"],
        action: Float[np.ndarray, "*batch links"],
    ) -> tuple[Float[np.ndarray, "*batch links"], Float[np.ndarray, "*batch links"]]:
        """Angles, in [−π, π), and velocities a step later; all of shape (*batch, links)."""
        torque = self.strength * self.chain.holding() * np.clip(action, -1.0, 1.0)
        angle, velocity = self.chain.advance(
            angle, velocity, torque, time_step=self.time_step, substeps=self.substeps
        )
        limit = self.speed_limit
        return _wrapped(angle), np.clip(velocity, -limit, limit)

    def render(self):
        """The chain, drawn to fit."""
        rods = np.stack([np.sin(self.state[0]), -np.cos(self.state[0])], axis=-1)
        joints = np.concatenate([np.zeros((1, 2)), np.cumsum(rods, axis=0)]) / self.chain.links
        return draw_rods(self.render_mode, joints)


def transitions(
    rng: np.random.Generator,
    count: int,
    *,
    links: int = 2,
    substeps: int = 4,
    speed: float = 3.0,
) -> DepthTransitions:
    """Draws single steps from uniform angles, velocities and actions, other numbers as in `step`.

    Args:
        rng: where everything is drawn from.
        count: number of transitions, at least 1.
        links: number of links, 1 to 8.
        substeps: integrator steps in a step, at least 1.
        speed: largest |ω| before the step, 0 to 25 rad/s.

    Returns:
        The transitions; observations of shape (count, 3·links), all of depth `substeps`.

    Raises:
        UsageError: an argument is out of range.
    """
    env = NLinkPendulum(links, substeps)
    count, speed = whole("count", count, 1), real("speed", speed, 0.0, env.speed_limit)
    angle = rng.uniform(-math.pi, math.pi, (count, links))
    velocity = rng.uniform(-speed, speed, (count, links))
    action = rng.uniform(-1.0, 1.0, (count, links)).astype(np.float32)
    following = env.moved(angle, velocity, action)
    return DepthTransitions(
        observation=_observed(angle, velocity),
        action=action,
        next_observation=_observed(*following),
        true_depth=np.full(count, substeps, np.int32),
    )


def _wrapped(angle: np.ndarray) -> np.ndarray:
    """The same angles in [−π, π)."""
    return (angle + math.pi) % (2.0 * math.pi) - math.pi


def _observed(
    angle: Float[np.ndarray, "*batch links"], velocity: Float[np.ndarray, "*batch links"]
) -> Float32[np.ndarray, "*batch triple"]:
    """Observations: cos θ, sin θ, ω, shape (*batch, 3·links)."""
    return np.concatenate([np.cos(angle), np.sin(angle), velocity], axis=-1).astype(np.float32)
