"""The training loop: act, store, learn, evaluate, checkpoint."""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from loopwm.envs import Spaces, Transitions, VectorStepper
from loopwm.errors import NotFinite, RunFailure, UsageError
from loopwm.models import Networks, Normalizer, resolve_networks
from loopwm.training import checkpoint
from loopwm.training.actor import Actor, EvaluationResult, EvaluationStopped
from loopwm.training.agent_file import SavedAgent, drop_best_after, keep_best
from loopwm.training.clock import Clock
from loopwm.training.config import RunConfig
from loopwm.training.counters import Counters
from loopwm.training.devices import on_one_device
from loopwm.training.exploration import may_learn
from loopwm.training.ez_greedy import EzGreedy
from loopwm.training.learner import LearnerState, Metrics, update
from loopwm.training.memory import give_back_freed
from loopwm.training.replay import Replay
from loopwm.training.run_folder import RunFolder
from loopwm.training.telemetry import Telemetry, eval_line
from loopwm.training.zoom import EVERY, fitted


class Trainer:
    """One run's state and loop; everything it needs is handed in."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        spaces: Spaces,
        learner: LearnerState,
        replay: Replay,
        *,
        make_actor: Callable[[Networks, Normalizer], Actor],
        random_actors: tuple[Actor, Actor],
        evaluate: Callable[[Actor, int], EvaluationResult],
        summarise: Callable[[LearnerState, Counters, list[dict[str, Any]]], dict[str, Any]],
        threshold: float | None,
        longest_episode: int | None = None,
        telemetry: Telemetry,
    ):
        """Builds a trainer at env step 0.

        Args:
            config: the run's configuration.
            folder: where it writes.
            spaces: codecs of the environment.
            learner: state of the learner.
            replay: memory of the steps made, empty.
            make_actor: agent for resolved networks and a normaliser.
            random_actors: agents of the random steps, and of the search after them.
            evaluate: plays evaluation episodes with an agent and a seed; it may give up with
                `EvaluationStopped` when a stop was requested.
            summarise: contents of summary.json.
            threshold: mean return that counts as solved, or None.
            longest_episode: env steps after which an unfinished episode fails the run, or None.
            telemetry: where progress goes.
        """
        self.config, self.folder, self.spaces = config, folder, spaces
        # Arrays of a weak type would have the learner compiled a second time, for what it returns.
        self.learner = jax.tree.map(
            lambda x: jnp.asarray(x, x.dtype) if eqx.is_inexact_array(x) else x, learner
        )
        self.replay = replay
        self._make_actor, self._random = make_actor, random_actors
        self._evaluate, self._summarise = evaluate, summarise
        self.threshold, self.telemetry = threshold, telemetry
        self._longest_episode = longest_episode
        scaling = self._scaling = spaces.observation.scaling()
        self.normalizer = Normalizer.create(spaces.observation.size, scaling.offset, scaling.width)
        self.rng = np.random.default_rng(config.seed)
        self.counters = Counters(
            next_evaluation=config.evaluation.every, next_checkpoint=config.checkpoint_every
        )
        self.stop_requested = False
        envs = config.collection.envs
        self._random_state = random_actors[0].initial_state(seed=config.seed, batch=envs)
        self._holds = EzGreedy(config.collection, random_actors[0], self.rng, seed=self._env_seed())
        self.actor = self._actor_of(self.learner.networks)
        self._actor_state = self.actor.initial_state(seed=config.seed, batch=envs)
        self._returns, self._lengths = np.zeros(envs), np.zeros(envs, np.int64)
        self._last_return = 0.0
        self._decisions: deque[float] = deque(maxlen=200)

    @property
    def learning(self) -> bool:
        """Whether the random steps are over."""
        return self.counters.learning_since is not None

    def run(self, stepper: VectorStepper, clock: Clock) -> bool:
        """Runs to the configured number of env steps, or until solved where that is the end.

        Args:
            stepper: the environments to learn in.
            clock: measures training and compilation.

        Returns:
            True when it reached the end, False when a stop was requested; in both cases the
            state has been saved.

        Raises:
            RunFailure: environment or learner failed; the last good checkpoint is kept.
        """
        with self._naming_last_good():
            stepper.reset(seed=self._env_seed())
        self._begin(stepper, np.ones(self.config.collection.envs, bool))
        clock.start(self.counters.wall_seconds, self.counters.compile_seconds)
        while not self._finished() and not self.stop_requested:
            if not self._owes():
                self._collect(stepper)
            self._learn()
            self._read_clock(clock)
            if self.counters.env_steps >= self.counters.next_evaluation:
                with clock.paused():
                    self._evaluation()
            if self.counters.env_steps >= self.counters.next_checkpoint:
                self.counters.next_checkpoint += self.config.checkpoint_every
                self.save()
        self._read_clock(clock)
        self._save_once()
        return self._finished()

    def _finished(self) -> bool:
        counters, evaluation = self.counters, self.config.evaluation
        solved = evaluation.stop_when_solved and counters.solved_at is not None
        return (solved or counters.env_steps >= self.config.steps) and not self._owes()

    def _owes(self) -> bool:
        return self.counters.owes(self.config.collection.updates_per_call)

    def resolved_networks(self) -> Networks:
        """The networks to evaluate and to keep as they are now, constrained weights resolved."""
        return resolve_networks(self.learner.acting)

    def _env_seed(self) -> int:
        # A resumed run begins new episodes: other ones than the run began with.
        seeds = np.random.SeedSequence([self.config.seed, self.counters.env_steps])
        return int(seeds.generate_state(1)[0])

    def _actor_of(self, networks: Networks) -> Actor:
        normalizer = jax.tree.map(lambda x: np.asarray(x, np.float32), self.normalizer)
        return self._make_actor(resolve_networks(networks), normalizer)

    def _begin(self, stepper: VectorStepper, mask: np.ndarray) -> None:
        """Episodes begin in the masked environments."""
        self.replay.begin(stepper.observation, mask)
        self._see(stepper.observation[mask])
        self._actor_state = self.actor.restart(self._actor_state, mask)
        self._random_state = self._random[0].restart(self._random_state, mask)
        self._holds.restart(mask)
        self._returns[mask], self._lengths[mask] = 0.0, 0

    def _see(self, observations: np.ndarray) -> None:
        if self._scaling.running.any():
            seen = observations.astype(np.float64)
            with self._naming_last_good():
                self.normalizer = self.normalizer.update(seen, self._scaling.running)

    def _collect(self, stepper: VectorStepper) -> None:
        """One vector step into replay."""
        began = time.perf_counter()
        if self.learning:
            action, self._actor_state = self.actor.act(stepper.raw, self._actor_state, explore=True)
            if not np.all(np.asarray(self._actor_state.stats.finite)):
                raise self._failure(
                    f"The planner's decision became NaN at env step {self.counters.env_steps}, so "
                    "lower learner.learning_rate or check the rewards",
                    NotFinite,
                )
            action = self._holds.apply(stepper.raw, action)
            self._decisions.append(1e3 * (time.perf_counter() - began) / len(stepper.observation))
        else:
            search = self.counters.env_steps >= self.config.collection.random_steps
            state = self._random_state
            action, self._random_state = self._random[search].act(stepper.raw, state, explore=True)
        with self._naming_last_good():
            transitions = stepper.step(action)
        self._store(self.spaces.action.encode(action), transitions)
        if np.any(transitions.begun):
            self._begin(stepper, transitions.begun)
        self._check_lengths()
        loops = float(np.mean(np.asarray(self._actor_state.stats.loops))) if self.learning else 0.0
        self.telemetry.step(self.counters.env_steps, self._last_return, loops, self._decision_ms())

    def _store(self, action: np.ndarray, transitions: Transitions) -> None:
        real = transitions.real
        self.replay.add(
            action,
            transitions.reward,
            transitions.terminated,
            transitions.truncated,
            transitions.next_observation,
            real,
        )
        self._see(transitions.next_observation[real])
        rewards = transitions.reward[real].astype(float)
        counters, collection = self.counters, self.config.collection
        ratio = collection.updates_per_step
        assert ratio is not None, "a session fills it in for the kind of actions"
        was_learning, before = self.learning, counters.env_steps
        counters.env_steps += (steps := int(real.sum()) * self.config.action_repeat)
        if not was_learning and may_learn(self.replay, collection, before, counters.env_steps):
            counters.learning_since = counters.env_steps
        counters.see_rewards(rewards)
        if was_learning:
            counters.updates_owed += ratio * steps
        elif self.learning:
            counters.updates_owed = ratio * counters.env_steps
        self._returns[real] += rewards
        self._lengths[real] += self.config.action_repeat
        ended = transitions.terminated | transitions.truncated
        if np.any(ended):
            self._last_return = float(self._returns[ended][-1])
            self._lengths[ended] = 0

    def _check_lengths(self) -> None:
        """Ends a run whose episodes do not end, after saving it."""
        longest = self._longest_episode
        if longest is not None and self._lengths.max() >= longest:
            self._save_once()
            raise self._failure(
                f"{self.config.env} has no time limit, and an episode has not ended after "
                f"{longest} env steps, so use gymnasium.wrappers.TimeLimit(env, "
                "max_episode_steps=...), or set collection.longest_episode=null if its task goes "
                "on forever"
            )

    def _learn(self) -> None:
        """As many updates as are owed, a compiled call at a time."""
        collection, counters = self.config.collection, self.counters
        metrics: Metrics | None = None
        if not self.learning or counters.updates_owed < collection.updates_per_call:
            return
        if counters.env_steps >= counters.next_look:
            counters.next_look = counters.env_steps + EVERY
            gamma, scale = self.config.learner.discount, counters.reward_scale
            self.learner = fitted(self.learner, self.replay, gamma, scale)
        while counters.updates_owed >= collection.updates_per_call and not self.stop_requested:
            counters.updates_owed -= collection.updates_per_call
            metrics = self._update_once()
        self.learner = on_one_device(self.learner)
        if metrics is not None:
            self.actor = self._actor_of(self.learner.networks)
            self._report(metrics)

    def _update_once(self) -> Metrics:
        learner = self.config.learner
        batch = self.replay.sample(
            self.config.collection.updates_per_call,
            learner.batch_size,
            learner.sequence,
            self.rng,
            learner.ends,
        )
        new, metrics = update(
            self.learner, batch, self.normalizer, self.counters.reward_scale, learner
        )
        self.learner = new
        if not np.isfinite(float(metrics.loss)):
            terms = vars(metrics.terms)
            named = [name for name, value in terms.items() if not np.isfinite(float(value))]
            raise self._failure(
                f"The {(named or ['total'])[0]} loss became {float(metrics.loss)} at env step "
                f"{self.counters.env_steps}, so lower learner.learning_rate or check the rewards",
                NotFinite,
            )
        return metrics

    def _failure(self, what: str, kind: type[RunFailure] = RunFailure) -> RunFailure:
        """What went wrong, and which checkpoint is left."""
        return kind(f"{what}; {checkpoint.describe_latest(self.folder)}.")

    @contextlib.contextmanager
    def _naming_last_good(self) -> Iterator[None]:
        """Adds the last good checkpoint to failures of the environment or the disk."""
        try:
            yield
        except UsageError as error:
            if self.counters.env_steps == 0:
                raise
            # Once a run is under way, what it can have no longer is its failure.
            raise self._failure(str(error).rstrip(".")) from error
        except RunFailure as error:
            raise self._failure(str(error).rstrip("."), type(error)) from error

    def _report(self, metrics: Metrics) -> None:
        values = {f"loss/{name}": float(v) for name, v in vars(metrics.terms).items()}
        values["loss/total"] = float(metrics.loss)
        values["loss/gradient_norm"] = float(metrics.gradient_norm)
        values["train/depth"] = float(metrics.depth)
        values["collect/return"] = self._last_return
        values["collect/decision_ms"] = self._decision_ms()
        self.telemetry.scalars(self.counters.env_steps, values)

    def _decision_ms(self) -> float:
        return float(np.median(self._decisions)) if self._decisions else 0.0

    def _read_clock(self, clock: Clock) -> None:
        self.counters.wall_seconds, self.counters.compile_seconds = clock.read()

    def _evaluation(self) -> None:
        """Evaluates, writes a line of evals.jsonl and the summary."""
        every, due = self.config.evaluation.every, self.counters.next_evaluation
        self.counters.next_evaluation = (self.counters.env_steps // every + 1) * every
        if not self.learning:
            return
        began = time.perf_counter()
        try:
            with self._naming_last_good():
                actor = self._actor_of(self.learner.acting)
                result = self._evaluate(actor, self._env_seed() ^ 0x5EED)
        except EvaluationStopped:
            self.counters.next_evaluation = due
            return
        record = result.record(self.counters.env_steps, self.counters.wall_seconds)
        mean = record["return_mean"]
        with self._naming_last_good():
            arrays = checkpoint.arrays_of(self._tree())
            keep_best(SavedAgent(self.config, arrays, self.counters.env_steps), self.folder, mean)
        solved = self.threshold is not None and mean >= self.threshold
        if solved and self.counters.solved_at is None:
            self.counters.solved_at = self.counters.env_steps
        self.folder.append_eval(record)
        self.write_summary()
        values = {f"evaluation/{key}": float(v) for key, v in record.items() if key != "env_steps"}
        self.telemetry.scalars(self.counters.env_steps, values)
        self.telemetry.message(eval_line(record, self.threshold, time.perf_counter() - began))
        give_back_freed()

    def write_summary(self) -> None:
        """Writes summary.json for the state as it is."""
        self.folder.write_summary(
            self._summarise(self.learner, self.counters, self.folder.read_evals())
        )

    def _save_once(self) -> None:
        """Saves, unless this step is: overwriting a checkpoint is not atomic."""
        if checkpoint.steps(self.folder)[-1:] != [self.counters.env_steps]:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint of everything and the summary.

        Raises:
            RunFailure: a number is not finite, or the checkpoint cannot be written.
        """
        arrays = checkpoint.arrays_of(self._tree())
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.inexact) and not np.all(np.isfinite(array)):
                raise self._failure(
                    f"{name} became NaN or infinite at env step {self.counters.env_steps}, so "
                    "lower learner.learning_rate or check the rewards",
                    NotFinite,
                )
        meta = {
            "counters": dataclasses.asdict(self.counters),
            "rng": self.rng.bit_generator.state,
            "last_return": self._last_return,
        }
        with self._naming_last_good():
            checkpoint.save(self.folder, self.counters.env_steps, arrays, meta, self.replay.state())
        self.write_summary()
        give_back_freed()

    def restore(self) -> None:
        """Takes over the newest checkpoint; a new episode begins after it."""
        arrays, meta = checkpoint.load(self.folder)
        tree = checkpoint.with_arrays(self._tree(), arrays)
        self.learner, self.normalizer = tree["learner"], tree["normalizer"]
        self.counters = Counters(**meta["counters"])
        self.rng.bit_generator.state = meta["rng"]
        self._last_return = meta["last_return"]
        self.replay.load_state(checkpoint.load_replay(self.folder))
        self.replay.seal()
        self.actor = self._actor_of(self.learner.networks)
        keys = tree["keys"]
        self._actor_state = eqx.tree_at(lambda s: s.key, self._actor_state, keys["actor"])
        self._random_state = eqx.tree_at(lambda s: s.key, self._random_state, keys["random"])
        self._holds.reseed(self._env_seed())
        self.folder.rewrite_evals(self.folder.read_evals(up_to=self.counters.env_steps))
        drop_best_after(self.folder, self.counters.env_steps)

    def _tree(self) -> dict[str, Any]:
        return {
            "learner": self.learner,
            "normalizer": self.normalizer,
            "keys": {"actor": self._actor_state.key, "random": self._random_state.key},
        }
