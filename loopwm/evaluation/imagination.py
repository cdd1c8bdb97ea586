"""Imagination beside reality: an episode, and what the model makes of its first observation."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.agents import PlanningAgent, PolicyAgent
from loopwm.core import AbstractDepthRule
from loopwm.envs import EnvSource, Spaces
from loopwm.errors import UsageError
from loopwm.evaluation.depth_analysis import HELD_OUT
from loopwm.evaluation.episodes import run_episodes
from loopwm.training import Candidates, Episode, EvaluationResult

STEPS = 50
"""Env steps that are imagined, unless the episode is over before."""
HORIZONS = (1, 5, 20)
"""Steps at which the open-loop error is told."""


@dataclasses.dataclass(frozen=True)
class Imagination:
    """An episode beside its open-loop imagination; level `empirical`."""

    episode: Episode
    """What happened, K steps."""
    observation: Float[np.ndarray, "steps observation"]
    """ô_1 … ô_K in the units of the environment, encoded, shape (steps, observation)."""
    reward: Float[np.ndarray, " steps"]
    """r̂_0 … r̂_{K−1} in the units of the environment, shape (steps,)."""
    continuation: Float[np.ndarray, " steps"]
    """Imagined probability that the task does not end with step k + 1, shape (steps,)."""
    error: Float[np.ndarray, " steps"]
    """Open-loop error after 1 … K steps, shape (steps,): root mean square over the entries of
    imagined less real observation, both normalised as the model sees them."""
    unmoved: Float[np.ndarray, " steps"]
    """The same error of o_0 in the place of each imagined observation, shape (steps,)."""


@dataclasses.dataclass(frozen=True)
class Watched:
    """What an evaluation showed of how an agent imagines."""

    env_steps: int | None
    """Env steps of training that the agent had made; None where that is not known."""
    imagination: Imagination
    """The first episode's."""
    candidates: Candidates | None
    """What its planner weighed, over all episodes; None where nothing was planned."""

    @classmethod
    def of(
        cls,
        agent: PlanningAgent | PolicyAgent,
        result: EvaluationResult,
        *,
        reward_scale: float,
        env_steps: int | None = None,
    ) -> "Watched":
        """Imagines the episode that an evaluation recorded; see `imagine`."""
        assert result.episode is not None
        imagination = imagine(agent, result.episode, reward_scale=reward_scale)
        return cls(env_steps, imagination, result.candidates)

    def scalars(self) -> dict[str, float]:
        """Numbers for TensorBoard by tag; an error is missing where the episode ended before."""
        error = self.imagination.error
        values = {f"imagination/error_{k}": error[k - 1] for k in HORIZONS if k <= len(error)}
        if self.candidates is not None:
            for name in ("best", "mean", "spread"):
                returns = getattr(self.candidates, name)
                if len(returns) > 1:
                    values[f"planner/{name}_first"] = returns[0]
                values[f"planner/{name}_last"] = returns[-1]
        return {tag: float(value) for tag, value in values.items()}


def watch(
    agent: PlanningAgent | PolicyAgent,
    source: EnvSource,
    *,
    reward_scale: float = 1.0,
    envs: int = 1,
    steps: int = STEPS,
    seed: int = HELD_OUT,
    env_steps: int | None = None,
) -> Watched:
    """Plays an agent in environments of its own, and imagines the first one's episode.

    Args:
        agent: the agent, from `loopwm.train` or `loopwm.load`.
        source: the environment, whose spaces are those that the agent was trained in.
        reward_scale: largest absolute reward seen in training, the unit of imagined rewards.
        envs: environments played side by side.
        steps: env steps at most.
        seed: seed of environments and agent.
        env_steps: env steps of training that the agent has made, if known.

    Returns:
        The imagination of the first episode, and what the planner weighed in all of them;
        `watched_sections` shows both.

    Raises:
        UsageError: the environment cannot be made, or there is nothing to play.
        RunFailure: the environment failed, or a decision became NaN.
    """
    if min(envs, steps) < 1:
        raise UsageError(f"envs is {envs} and steps {steps}; give at least 1 of each.")
    spaces = Spaces.of_source(source)
    result = run_episodes(
        agent, source, spaces, episodes=envs, seed=seed, max_steps=steps, record=steps
    )
    return Watched.of(agent, result, reward_scale=reward_scale, env_steps=env_steps)


def imagine(
    agent: PlanningAgent | PolicyAgent, episode: Episode, *, reward_scale: float
) -> Imagination:
    r"""Rolls an agent's world model open-loop along an episode, in one compiled call.

    $$\hat z_0 = E(o_0), \qquad \hat z_{k+1} = F(\hat z_k, u_k), \qquad
      \hat o_{k+1} = \mathrm{Decode}(\hat z_{k+1})$$

    with the actions $u_k$ that were taken: after the first observation the model sees no other.
    Transitions have the depth that the agent plans with.

    Args:
        agent: the agent, its constrained weights resolved.
        episode: what happened.
        reward_scale: largest absolute reward seen in training, the unit of imagined rewards.

    Returns:
        The imagination beside the episode.
    """
    made = len(episode.action)
    # Of one length whenever the episode ended: one program for all evaluations of a run.
    more = max(0, STEPS - made)
    rule = agent.rule if isinstance(agent, PlanningAgent) else None
    found = _imagined(
        agent.world_model,
        agent.normalizer,
        rule,
        jnp.asarray(np.pad(episode.observation, ((0, more), (0, 0)), mode="edge")),
        jnp.asarray(np.pad(episode.action, ((0, more), (0, 0)))),
    )
    observation, reward, continuation, error, unmoved = (np.asarray(x)[:made] for x in found)
    return Imagination(
        episode=episode,
        observation=observation,
        reward=reward_scale * reward.astype(np.float64),
        continuation=continuation,
        error=error,
        unmoved=unmoved,
    )


@eqx.filter_jit
def _imagined(
    model: Any, normalizer: Any, rule: AbstractDepthRule | None, observation: Array, action: Array
) -> tuple[Array, ...]:
    """Observations, rewards, continuations, errors, errors of o_0; leading axis (steps,)."""
    seen = jax.vmap(normalizer)(observation)

    def step(z, u):
        after = model.transition(z, u, rule).value
        outcome = model.outcome(z, u, after)
        return after, (model.decode(after), outcome.reward, outcome.continuation)

    _, (decoded, reward, continuation) = jax.lax.scan(step, model.encode(seen[0]), action)
    restored = jax.vmap(normalizer.restore)(decoded)
    return restored, reward, continuation, _rms(decoded - seen[1:]), _rms(seen[:1] - seen[1:])


def _rms(difference: Float[Array, "steps observation"]) -> Float[Array, " steps"]:
    return jnp.sqrt(jnp.mean(difference**2, axis=1))
