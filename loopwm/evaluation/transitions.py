"""Real transitions that a world model's predictions are held against."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64, UInt8

from loopwm.envs import DepthTransitions, EnvSource, Spaces, VectorStepper, make_vector
from loopwm.errors import RunFailure, UsageError
from loopwm.training import Actor


@dataclasses.dataclass(frozen=True)
class RealTransitions:
    """Transitions of an environment, encoded as a model gets them but not normalised."""

    observation: Float[np.ndarray, "count observation"] | UInt8[np.ndarray, "count observation"]
    """o_t, shape (count, observation)."""
    action: Float[np.ndarray, "count action"]
    """u_t, shape (count, action)."""
    next_observation: (
        Float[np.ndarray, "count observation"] | UInt8[np.ndarray, "count observation"]
    )
    """o_{t+1}, shape (count, observation); the final observation where the episode ended."""
    true_depth: Int64[np.ndarray, " count"] | None
    """Sequential micro-steps that the simulator needed, shape (count,); None where unknown."""
    origin: str
    """Where they come from, in words that follow "Measured on"."""

    def __post_init__(self):
        """Refuses an empty batch."""
        if not len(self.observation):
            raise UsageError("There are no transitions to measure on; give at least one.")


def play_transitions(
    agent: Actor,
    source: EnvSource,
    spaces: Spaces,
    *,
    count: int,
    envs: int,
    seed: int,
) -> RealTransitions:
    """Plays episodes with the exploration of training, in environments that nothing learns from.

    Args:
        agent: the agent.
        source: the environment; new instances are made.
        spaces: its codecs.
        count: transitions, at least 1.
        envs: environments played side by side, at least 1; an ended episode is followed by another.
        seed: seed of environments and agent.

    Returns:
        The first `count` transitions, each different one once. They are of the kind that the model
        was trained on, but none of them was trained on.

    Raises:
        UsageError: there is nothing to play.
        RunFailure: the environment failed, or a decision became NaN.
    """
    if min(count, envs) < 1:
        raise UsageError(f"count is {count} and envs {envs}; give at least 1 of each.")
    stepper = VectorStepper(make_vector(source, envs), spaces)
    rows: list[tuple[np.ndarray, ...]] = []
    depths: list[np.ndarray] = []
    known, made = True, 0
    try:
        stepper.reset(seed=seed)
        state = agent.initial_state(seed=seed, batch=envs)
        while made < count:
            before = np.array(stepper.observation)
            action, state = agent.act(stepper.raw, state, explore=True)
            if not np.all(np.asarray(state.stats.finite)):
                raise RunFailure("A decision became NaN; load an earlier checkpoint.")
            step = stepper.step(action)
            real = step.real
            rows.append(
                (before[real], spaces.action.encode(action)[real], step.next_observation[real])
            )
            if real.any():
                known = known and step.true_depth is not None
            if step.true_depth is not None:
                depths.append(step.true_depth[real])
            made += int(real.sum())
            state = agent.restart(state, step.begun)
    finally:
        stepper.close()
    arrays = [np.concatenate(parts)[:count] for parts in zip(*rows, strict=True)]
    # An agent that stands still repeats itself, and what is repeated is no further evidence.
    _, first = np.unique(np.concatenate(arrays, axis=1), axis=0, return_index=True)
    kept = np.sort(first)
    observation, taken, following = (array[kept] for array in arrays)
    repeats = "" if len(kept) == count else f" ({count - len(kept)} of {count} were repeats)"
    return RealTransitions(
        observation=observation,
        action=np.asarray(taken, np.float32),
        next_observation=following,
        true_depth=np.concatenate(depths)[:count][kept] if known else None,
        origin=(
            f"{len(kept)} different transitions{repeats} of environments of their own, seed "
            f"{seed}, in which the agent acted with the exploration of training and from which "
            "nothing was learned"
        ),
    )


def encode_transitions(drawn: DepthTransitions, spaces: Spaces, origin: str) -> RealTransitions:
    """Transitions drawn with `transitions` of an environment of known depth, encoded.

    Args:
        drawn: raw transitions with their true depth.
        spaces: codecs of the environment that the model was trained in.
        origin: where they come from, in words that follow "Measured on".

    Returns:
        The same transitions, encoded.
    """
    return RealTransitions(
        observation=np.asarray(spaces.observation.encode(drawn.observation)),
        action=np.asarray(spaces.action.encode(drawn.action), np.float32),
        next_observation=np.asarray(spaces.observation.encode(drawn.next_observation)),
        true_depth=drawn.true_depth.astype(np.int64),
        origin=origin,
    )
