"""Plays evaluation episodes on environments of their own."""

import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from loopwm.envs import EnvSource, Spaces, Transitions, VectorStepper, make_vector
from loopwm.errors import NotFinite, UsageError
from loopwm.planning import CandidateReturns
from loopwm.training import Actor, Candidates, Episode, EvaluationResult, EvaluationStopped


def run_episodes(
    actor: Actor,
    source: EnvSource,
    spaces: Spaces,
    *,
    episodes: int,
    seed: int,
    max_steps: int = 10_000,
    stop: Callable[[], bool] = lambda: False,
    record: int = 0,
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
        record: steps of the first episode that are kept, at most.

    Returns:
        Undiscounted returns, mean loops and largest bound, median milliseconds a decision, mean
        returns of the planner's candidates, and the beginning of the first episode.

    Raises:
        UsageError: there is nothing to play, or the seed is negative.
        EvaluationStopped: it gave up.
        NotFinite: a decision became NaN.
        RunFailure: the environment failed.
    """
    if min(episodes, max_steps) < 1 or seed < 0:
        raise UsageError(
            f"{episodes} episodes of {max_steps} steps at most from seed {seed} cannot be played; "
            "give at least 1 of both, and a seed of 0 or more."
        )
    stepper = VectorStepper(make_vector(source, episodes), spaces)
    try:
        stepper.reset(seed=seed)
        state = actor.initial_state(seed=seed, batch=episodes)
        returns, ended = np.zeros(episodes), np.zeros(episodes, bool)
        loops: list[float] = []
        bounds: list[float] = []
        milliseconds: list[float] = []
        beginning, weighed = _Beginning(record, seed), _Weighed()
        for _ in range(max_steps):
            if stop():
                raise EvaluationStopped
            began = time.perf_counter()
            action, state = actor.act(stepper.raw, state, explore=False)
            milliseconds.append(1e3 * (time.perf_counter() - began) / episodes)
            if not np.all(np.asarray(state.stats.finite)):
                raise NotFinite("A decision became NaN in evaluation; load an earlier checkpoint.")
            # Environments whose episode is over go on, but are not evaluated any more.
            running = ~ended
            loops.extend(np.asarray(state.stats.loops, np.float64)[running])
            bounds.append(float(np.max(np.asarray(state.stats.bound)[running])))
            weighed.add(state.stats.returns, running)
            before = stepper.observation[0]
            step = stepper.step(action)
            if not ended[0]:
                beginning.add(before, spaces.action.encode(action)[0], step)
            returns += np.where(step.real & ~ended, step.reward, 0.0)
            ended |= step.terminated | step.truncated
            if ended.all():
                break
            state = actor.restart(state, step.begun)
    finally:
        stepper.close()
    return EvaluationResult(
        returns=tuple(float(value) for value in returns),
        # Of means in single precision: a fixed depth is that number.
        loops_mean=round(float(np.mean(loops)), 6),
        bound_max=max(bounds),
        decision_ms=float(np.median(milliseconds)),
        candidates=weighed.mean(),
        episode=beginning.episode(),
    )


class _Beginning:
    """Keeps the first steps of the first environment's episode."""

    def __init__(self, wanted: int, seed: int):
        self._wanted, self._seed = wanted, seed
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._last: tuple[np.ndarray, bool, bool] | None = None

    def add(self, observation: np.ndarray, action: np.ndarray, step: Transitions) -> None:
        """A step, unless there are enough."""
        if len(self._rows) == self._wanted:
            return
        self._rows.append((np.array(observation), np.array(action), step.reward[0]))
        ended = bool(step.terminated[0]), bool(step.truncated[0])
        self._last = np.array(step.next_observation[0]), *ended

    def episode(self) -> Episode | None:
        """What was kept; None where nothing was asked for."""
        if self._last is None:
            return None
        observation, action, reward = zip(*self._rows, strict=True)
        following, terminated, truncated = self._last
        return Episode(
            action=np.asarray(action, np.float32),
            observation=np.stack([*observation, following]),
            reward=np.asarray(reward, np.float32),
            terminated=terminated,
            truncated=truncated,
            seed=self._seed,
        )


class _Weighed:
    """Sums the returns of candidates over decisions."""

    def __init__(self):
        self._sum: np.ndarray | None = None
        self._decisions = 0

    def add(self, returns: CandidateReturns | None, running: Bool[np.ndarray, " envs"]) -> None:
        """The decisions of one step, of the environments whose episode is not over."""
        if returns is None:
            return
        arrays = (returns.best, returns.mean, returns.spread)
        rows = np.stack([np.asarray(array, np.float64)[running] for array in arrays])
        self._sum = rows.sum(1) if self._sum is None else self._sum + rows.sum(1)
        self._decisions += int(running.sum())

    def mean(self) -> Candidates | None:
        """The mean over the decisions; None where nothing was weighed."""
        if self._sum is None:
            return None
        best, mean, spread = self._sum / self._decisions
        return Candidates(best, mean, spread, self._decisions)
