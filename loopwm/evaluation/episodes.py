"""Plays evaluation episodes on environments of their own."""

import time
from collections.abc import Callable

import numpy as np

from loopwm.envs import EnvSource, Spaces, VectorStepper, make_vector
from loopwm.errors import RunFailure
from loopwm.training import Actor, EvaluationResult, EvaluationStopped


def run_episodes(
    actor: Actor,
    source: EnvSource,
    spaces: Spaces,
    *,
    episodes: int,
    seed: int,
    max_steps: int = 10_000,
    stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult:
    """Plays episodes side by side, one planner call a step for all of them.

    Args:
        actor: the agent.
        source: the environment; new instances are made.
        spaces: its codecs.
        episodes: number of episodes, each in an environment of its own.
        seed: seed of environments and agent.
        max_steps: an episode that the environment does not end is cut here.
        stop: asked before each step whether to give up.

    Returns:
        Undiscounted returns, mean loops and largest bound, median milliseconds a decision.

    Raises:
        EvaluationStopped: it gave up.
        RunFailure: the environment failed, or a decision became NaN.
    """
    stepper = VectorStepper(make_vector(source, episodes), spaces)
    try:
        stepper.reset(seed=seed)
        state = actor.initial_state(seed=seed, batch=episodes)
        returns, ended = np.zeros(episodes), np.zeros(episodes, bool)
        loops: list[float] = []
        bounds: list[float] = []
        milliseconds: list[float] = []
        for _ in range(max_steps):
            if stop():
                raise EvaluationStopped
            began = time.perf_counter()
            action, state = actor.act(stepper.raw, state, explore=False)
            milliseconds.append(1e3 * (time.perf_counter() - began) / episodes)
            if not np.all(np.asarray(state.stats.finite)):
                raise RunFailure("A decision became NaN in evaluation; load an earlier checkpoint.")
            loops.append(float(np.mean(np.asarray(state.stats.loops))))
            bounds.append(float(np.max(np.asarray(state.stats.bound))))
            step = stepper.step(action)
            returns += np.where(step.real & ~ended, step.reward, 0.0)
            ended |= step.terminated | step.truncated
            if ended.all():
                break
            state = actor.restart(state, step.begun)
    finally:
        stepper.close()
    return EvaluationResult(
        returns=tuple(float(value) for value in returns),
        loops_mean=float(np.mean(loops)),
        bound_max=max(bounds),
        decision_ms=float(np.median(milliseconds)),
    )
