"""Puts the parts of a run together and runs it."""

import contextlib
import dataclasses
import shlex
import signal
import threading
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from loopwm.agents import PlanningAgent, RandomAgent
from loopwm.envs import (
    EnvSource,
    Spaces,
    VectorStepper,
    env_id,
    env_name,
    make,
    make_vector,
    remembered,
    thresholds,
    time_limit,
)
from loopwm.errors import RunFailure, UsageError, as_clause
from loopwm.evaluation import (
    STEPS,
    DepthAnalysis,
    DepthConfig,
    Watched,
    analyse_depth,
    certificate_of,
    pictures,
    run_episodes,
    statements,
    watch,
    write_report,
)
from loopwm.models import (
    EveryDepth,
    Networks,
    Normalizer,
    Sizes,
    build_networks,
    building_is_kept,
    count_parameters,
)
from loopwm.planning import AbstractPlanner, check_bonus
from loopwm.training import (
    Actor,
    Clock,
    Counters,
    EvaluationResult,
    LearnerState,
    Replay,
    RunConfig,
    RunFolder,
    RunTelemetry,
    Telemetry,
    Trainer,
    check_devices,
    checkpoint,
    init_learner,
    prepare_update,
)
from loopwm.training.agent_file import better_clause

COMPILING = "learner's program"
"""Name of the thread that compiles it."""


class Interrupted(RunFailure):
    """The user asked a run to stop; everything was saved."""


def build_run_networks(config: RunConfig, spaces: Spaces) -> Networks:
    """Freshly initialised networks of a run, from its seed."""
    key = jax.random.key(config.seed)
    layout = spaces.action.layout
    return build_networks(config.model, config.heads, model_sizes(spaces), actions=layout, key=key)


def model_sizes(spaces: Spaces) -> Sizes:
    """What a world model needs to know of an environment's spaces."""
    return Sizes(
        observation=spaces.observation.size,
        action=spaces.action.size,
        shape=spaces.observation.shape,
        image=spaces.observation.image,
    )


def _first_learner(config: RunConfig, networks: Networks) -> LearnerState:
    # `build_networks` splits the same key in three, which are `fold_in` of 0, 1 and 2.
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    return init_learner(networks, config.learner, key=key)


def _compile_ahead(config: RunConfig, spaces: Spaces, replay: Replay) -> threading.Thread | None:
    """Begins to compile the learner's program, beside the building and the random steps.

    It is most of what the first run in an environment waits for. None where that is not needed: the
    program that builds the networks is kept, and so is the learner's as a rule; or the run is over
    before learning begins.
    """
    layout, collection, learner = spaces.action.layout, config.collection, config.learner
    kept = building_is_kept(config.model, config.heads, model_sizes(spaces), actions=layout)
    if kept or config.steps <= collection.random_steps:
        return None
    batch = replay.blank(collection.updates_per_call, learner.batch_size, learner.sequence)

    def compile_it() -> None:
        # Whatever is wrong here is raised again, and said, where the same is done in earnest.
        with contextlib.suppress(Exception):
            state = eqx.filter_eval_shape(
                lambda: _first_learner(config, build_run_networks(config, spaces))
            )
            prepare_update(state, batch, Normalizer.create(spaces.observation.size), learner)

    thread = threading.Thread(target=compile_it, name=COMPILING)
    thread.start()
    return thread


def build_planner(config: RunConfig, spaces: Spaces, name: str | None = None) -> AbstractPlanner:
    """The planner of a run, by name or by what fits its actions."""
    layout = spaces.action.layout
    return config.planning.choose(layout, name=name).build(layout)


class Session:
    """Checks a request and holds what a run needs, before anything is written."""

    def __init__(self, source: EnvSource, config: RunConfig):
        """Makes the environment once to read its spaces.

        Args:
            source: the environment.
            config: the resolved configuration.

        Raises:
            UsageError: the environment cannot be made, a space is not supported, the model does
                not fit the observations, the replay does not fit into memory, or the learner's
                devices are not there.
        """
        check_devices(config.learner)
        self.source = source
        single = make(source)
        try:
            self.spaces, self._former = Spaces.of(single), remembered(single)
            given, limit = config.evaluation.threshold, time_limit(single)
            self.longest_episode = None if limit else config.collection.longest_episode
            self.threshold = thresholds.reward_threshold(single) if given is None else given
        finally:
            single.close()
        self._discount = config.learner.discount
        self.config = dataclasses.replace(
            config,
            learner=config.learner.for_limit(limit),
            collection=config.collection.for_actions(self.spaces.action.layout.discrete),
        )
        self.planner = build_planner(config, self.spaces)
        self.replay = Replay(
            config.collection.replay_capacity,
            config.collection.envs,
            self.spaces.observation.size,
            self.spaces.action.size,
            self.spaces.observation.dtype,
        )
        self._compiling = _compile_ahead(self.config, self.spaces, self.replay)
        self.networks = build_run_networks(config, self.spaces)
        check_bonus(config.planning.bonus, self.networks.world_model)
        self._watched: Watched | None = None

    def run(self, folder: RunFolder, *, resume: bool, quiet: bool) -> PlanningAgent:
        """Trains in the folder; see `train`."""
        learner = _first_learner(self.config, self.networks)
        done = checkpoint.steps(folder)[-1] if resume else 0
        collection = self.config.collection
        vector = make_vector(
            self.source,
            collection.envs,
            same_step=collection.same_step_reset,
            kind=collection.vector,
            timeout=collection.worker_timeout,
            former=self._former(),
        )
        telemetry = RunTelemetry(folder, self.config.steps, done, quiet=quiet)
        finished: bool | None = None
        try:
            trainer = self._trainer(folder, learner, telemetry)
            if resume:
                try:
                    trainer.restore()
                except (KeyError, TypeError) as error:
                    raise UsageError(
                        f"{folder.path} was not written by this version of loopwm "
                        f"({as_clause(error)}); use the one that it was made with."
                    ) from error
                folder.write_config(self.config)
            telemetry.message(
                f"Writing to {folder.path}; the replay holds {self.replay.nbytes / 1e6:.1f} MB"
            )
            if (lowered := self.config.learner.discount) < self._discount:
                telemetry.message(
                    f"learner.discount is {lowered:g} here instead of {self._discount:g}: the time "
                    "limit is short (learner.limit_share=null keeps it)"
                )
            with _stop_on_signal(trainer):
                finished = trainer.run(VectorStepper(vector, self.spaces), Clock())
            agent = self._actor(trainer.resolved_networks(), trainer.normalizer)
            self._report(folder, trainer, agent if finished and trainer.learning else None)
        except OSError as error:
            raise RunFailure(
                f"{folder.path} cannot be written any more ({as_clause(error)}), so check the "
                f"space that is left there; {checkpoint.describe_latest(folder)}."
            ) from error
        except KeyboardInterrupt as error:
            raise self._stopped_at_once(folder, finished) from error
        finally:
            telemetry.close()
            vector.close()
        if not finished:
            raise Interrupted(
                f"Stopped at env step {trainer.counters.env_steps} and saved; go on with: "
                f"{self._resume_command(folder)}"
            )
        # Only here: nobody who stops a run, or meets a failure, waits for the compiler.
        if self._compiling is not None:
            self._compiling.join()
        better = better_clause(folder)
        telemetry.message(f"{folder.path} holds the run; report: {folder.report_file}{better}")
        return agent

    def _trainer(self, folder: RunFolder, learner: LearnerState, telemetry: Telemetry) -> Trainer:
        collection = self.config.collection

        def random(hold: tuple[int, int]) -> RandomAgent:
            return RandomAgent(actions=self.spaces.action.layout, spaces=self.spaces, hold=hold)

        trainer = Trainer(
            self.config,
            folder,
            self.spaces,
            learner,
            self.replay,
            make_actor=self._actor,
            random_actors=(random(collection.random_hold), random(collection.search_hold)),
            evaluate=lambda actor, seed: self._evaluate(trainer, actor, seed),
            summarise=self._summary,
            threshold=self.threshold,
            longest_episode=self.longest_episode,
            telemetry=telemetry,
        )
        return trainer

    def _evaluate(self, trainer: Trainer, actor: Actor, seed: int) -> EvaluationResult:
        """Plays evaluation episodes, and shows what the agent imagines of the first one."""
        evaluation, counters = self.config.evaluation, trainer.counters
        result = run_episodes(
            actor,
            self.source,
            self.spaces,
            episodes=evaluation.episodes,
            seed=seed,
            max_steps=evaluation.decisions(self.config.action_repeat),
            stop=lambda: trainer.stop_requested,
            record=STEPS,
        )
        assert isinstance(actor, PlanningAgent)
        self._watched = Watched.of(
            actor, result, reward_scale=counters.reward_scale, env_steps=counters.env_steps
        )
        trainer.telemetry.scalars(counters.env_steps, self._watched.scalars())
        drawn = pictures(self._watched, self.spaces.observation)
        trainer.telemetry.images(counters.env_steps, drawn)
        return result

    def _watch(self, agent: PlanningAgent, counters: Counters) -> Watched | str:
        """What the last evaluation showed; where this session made none, it is played now."""
        if self._watched is not None:
            return self._watched
        try:
            return watch(
                agent,
                self.source,
                reward_scale=counters.reward_scale,
                # As many environments as evaluations have: the planner is not compiled again.
                envs=self.config.evaluation.episodes,
                env_steps=counters.env_steps,
            )
        except RunFailure as error:
            return f"No episode was imagined: {as_clause(error)}."

    def _actor(self, networks: Networks, normalizer: Normalizer) -> PlanningAgent:
        return PlanningAgent(
            networks=networks,
            normalizer=jax.tree.map(lambda x: np.asarray(x, np.float32), normalizer),
            planner=self.planner,
            discount=self.config.learner.discount,
            spaces=self.spaces,
            bonus=self.config.planning.bonus,
            bonus_weight=self.config.planning.bonus_weight,
        )

    def _summary(
        self, learner: LearnerState, counters: Counters, records: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Contents of summary.json."""
        model = learner.acting.world_model
        certificate = certificate_of(model.core)
        return {
            "env": self.config.env,
            "seed": self.config.seed,
            "env_steps": counters.env_steps,
            "wall_seconds": counters.wall_seconds,
            "compile_seconds": counters.compile_seconds,
            "threshold": self.threshold,
            "solved_at": counters.solved_at,
            "final_return_mean": records[-1]["return_mean"] if records else None,
            "params": {
                "total": count_parameters(learner.networks),
                "world_model": count_parameters(model),
                "core": count_parameters(model.core),
            },
            "certificate": None if certificate is None else certificate.summary(),
        }

    def _stopped_at_once(self, folder: RunFolder, finished: bool | None) -> Interrupted:
        """What to say after a Ctrl-C that nothing waits for."""
        if checkpoint.latest(folder) is None:
            return Interrupted("Stopped before anything was saved; give the same command again.")
        lost = "it could save what is new" if finished is None else "its report was written"
        return Interrupted(
            f"Stopped before {lost}; {checkpoint.describe_latest(folder)}; go on with: "
            f"{self._resume_command(folder)}"
        )

    def _resume_command(self, folder: RunFolder) -> str:
        path = str(folder.path)
        env = env_id(self.source)
        if env is None:
            return f"loopwm.resume({path!r}, env={env_name(self.source)})"
        return shlex.join(["loopwm", "train", env, "--resume", path])

    def _depth(self, agent: PlanningAgent) -> DepthAnalysis | str | None:
        """What the loops are worth at the end of training, or why that is not known."""
        model, envs = agent.world_model, self.config.evaluation.episodes
        if not isinstance(model, EveryDepth):
            return None
        # As many environments as evaluations have: the planner is not compiled again.
        trained = self.config.learner.depth.reached_for(model.depth)
        sizes = DepthConfig(
            transitions=min(256, max(64, 25 * envs)),
            envs=envs,
            multiple=3 if trained == model.depth else 2,
        )
        try:
            return analyse_depth(agent, self.source, trained=trained, config=sizes)
        except RunFailure as error:
            return f"The depth was not measured: {as_clause(error)}."

    def _report(self, folder: RunFolder, trainer: Trainer, agent: PlanningAgent | None) -> None:
        """Writes the report, and once more with what an agent shows that ended its training."""
        summary = self._summary(trainer.learner, trainer.counters, folder.read_evals())
        model = trainer.learner.acting.world_model
        guarantees = statements(model)

        def write(watched: Watched | str | None, depth: DepthAnalysis | str | None = None) -> None:
            shown = (watched, self.spaces.observation) if isinstance(watched, Watched) else watched
            write_report(folder, self.config, summary, guarantees, depth, shown)

        write(self._watched)
        # After the first one: whatever happens while playing, the run has a report.
        if agent is not None:
            write(self._watch(agent, trainer.counters), self._depth(agent))


@contextlib.contextmanager
def _stop_on_signal(trainer: Trainer) -> Iterator[None]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after the current step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {}

    def request(number: int, _frame: object) -> None:
        trainer.stop_requested = True
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
