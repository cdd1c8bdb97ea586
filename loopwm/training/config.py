"""Settings of a run."""

import dataclasses
import math

from loopwm.envs import EnvSource, RepeatedSource, VectorKind
from loopwm.errors import UsageError
from loopwm.models import WORLD_MODELS, LoopedConfig, ValueConfig, WorldModelBuilder
from loopwm.models.ranges import check_not_negative, check_positive
from loopwm.planning import PlanningConfig
from loopwm.training.deferred import DeferredConfig
from loopwm.training.depth import DepthLaw, TrainingDepth

_WEIGHTS = (
    "consistency_weight",
    "reconstruction_weight",
    "reward_weight",
    "continuation_weight",
    "value_weight",
    "imagined_value_weight",
    "policy_weight",
    "gate_weight",
    "gate_entropy",
    "auxiliary_weight",
)
_LONGEST_HOLD = 2**30


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """Losses, optimiser and targets."""

    discount: float = 0.99
    """γ, discount a step, at most; see `limit_share`."""
    limit_share: float | None = 0.5
    """Largest 1 / (1 − γ) as a share of the environment's time limit, but 20 steps in any case: a
    short task is not judged by what would come long after its end. Null leaves γ as it is."""
    batch_size: int = 64
    """Sequences an update."""
    sequence: int = 5
    """H: transitions a sequence, the rollout length of the losses."""
    ends: float = 0.0
    """Share of an update's sequences that are drawn among those that hold a termination, where
    tasks end rarely and much depends on it; 0 draws all of them uniformly over the steps stored."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    gradient_clip: float = 10.0
    """Largest global norm of a gradient."""
    target_rate: float = 0.02
    """Step of the target critic towards the critic, an update."""
    trace: float = 0.8
    """λ of the TD(λ) targets along a sequence."""
    imagination: int = 8
    """K: steps imagined under the policy from each sequence, for the critic."""
    imagined_trace: float = 0.95
    """λ of the returns of imagined steps."""
    rollout_decay: float = 0.7
    """Weight of a loss k steps into a rollout: decay^k."""
    consistency_weight: float = 2.0
    """Weight of ‖ẑ − sg E(o)‖² a latent entry."""
    reconstruction_weight: float = 1.0
    """Weight of the squared error of the decoded, normalised observation, an entry."""
    reward_weight: float = 1.0
    """Weight of the reward's loss, see `loopwm.training.reward_error`."""
    continuation_weight: float = 1.0
    """Weight of the cross-entropy of the continuation."""
    value_weight: float = 0.5
    """Weight of the cross-entropy of the value distributions, on replayed steps."""
    imagined_value_weight: float = 0.5
    """The same on imagined steps."""
    policy_weight: float = 1.0
    """Weight of the policy loss; the policy shares no weights with the other losses."""
    temperature_rate: float = 0.03
    """Step of the log-temperature, an update and a nat of missing entropy; of a policy of several
    parts (entries, groups) their mean."""
    deferred: DeferredConfig = DeferredConfig()
    """Deferred decoding: K actions in latent space, one decode; off by default."""
    depth: TrainingDepth = TrainingDepth()
    """Loops of a training sequence's transitions."""
    average_rate: float | None = None
    """Step of the averaged networks towards the trained ones, an update: the average is what is
    evaluated and kept for acting. No average when null."""
    gate_weight: float = 1.0
    """Weight of the halting gate's loss, where the model has a gate."""
    gate_entropy: float = 0.01
    """Weight of the entropy of the gate's exit distribution, a nat, within that loss."""

    auxiliary_weight: float = 1.0
    """Weight of the world model's own loss term, where the model brings one."""
    devices: int | None = 1
    """JAX devices that share each batch, see docs/scaling.md; null for all of them."""

    def __post_init__(self):
        """Refuses numbers outside their ranges."""
        for name in ("batch_size", "sequence", "imagination"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"learner.{name} is {getattr(self, name)}; it needs to be at least 1."
                )
        if not 0.0 < self.discount < 1.0:
            raise UsageError(f"learner.discount is {self.discount}; give a value in (0, 1).")
        if not 0.0 <= self.ends < 1.0:
            raise UsageError(f"learner.ends is {self.ends}; give a share in [0, 1).")
        if self.limit_share is not None and not 0.0 < self.limit_share < math.inf:
            raise UsageError(
                f"learner.limit_share is {self.limit_share}; give a positive, finite number, or "
                "null."
            )
        check_positive("learner.", self, "learning_rate", "gradient_clip")
        check_not_negative("learner.", self, *_WEIGHTS, "temperature_rate")
        for name in ("imagined_trace", "rollout_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(
                    f"learner.{name} is {getattr(self, name)}; give a value in [0, 1]."
                )
        if not 0.0 <= self.trace <= 1.0 or not 0.0 < self.target_rate <= 1.0:
            raise UsageError(
                f"learner.trace is {self.trace} and target_rate {self.target_rate}; give values "
                "in [0, 1] and (0, 1]."
            )
        if (self.deferred.steps or 0) > self.sequence:
            raise UsageError(
                f"learner.deferred.steps is {self.deferred.steps}, more than learner.sequence "
                f"({self.sequence}); lower it, or raise learner.sequence."
            )
        if self.average_rate is not None and not 0.0 < self.average_rate <= 1.0:
            raise UsageError(
                f"learner.average_rate is {self.average_rate}; give a value in (0, 1], or null for "
                "no average."
            )
        if self.devices is not None:
            self.check_shares(self.devices)
        if self.depth.law is DepthLaw.LEARNED and self.batch_size < 2:
            raise UsageError(
                "learner.batch_size is 1, but a learned depth compares sequences; give at least 2."
            )

    def check_shares(self, devices: int) -> None:
        """Refuses a number of devices that cannot share the batch evenly."""
        if devices < 1:
            raise UsageError(f"learner.devices is {devices}; give at least 1, or null for all.")
        if self.batch_size % devices:
            below = self.batch_size // devices * devices
            raise UsageError(
                f"learner.batch_size is {self.batch_size}, which {devices} devices cannot share "
                f"evenly; set learner.batch_size to {below or devices} or another multiple of "
                f"{devices}, or change learner.devices."
            )

    def for_limit(self, limit: int | None) -> "LearnerConfig":
        """These settings in an environment with a time limit of so many steps; None without one."""
        if limit is None or self.limit_share is None:
            return self
        largest = 1.0 - 1.0 / max(20.0, self.limit_share * limit)
        return dataclasses.replace(self, discount=min(self.discount, largest))


@dataclasses.dataclass(frozen=True)
class CollectionConfig:
    """How environments are stepped and when the learner is called."""

    envs: int = 1
    """Environments stepped together."""
    vector: VectorKind = VectorKind.SYNC
    """Where they run: sync, in this process, or async, each in a worker process; the run is the
    same to the last bit. Evaluations run in this process."""
    worker_timeout: float = 60.0
    """Seconds that a worker may take to start, to reset or to make a step."""
    longest_episode: int | None = 10_000
    """Env steps after which an unfinished episode fails the run, in environments without a time
    limit; null for tasks that go on forever."""
    same_step_reset: bool = False
    """Reset an environment in the step that ends its episode instead of in the next."""
    random_steps: int = 250
    """Env steps with random actions before learning starts, at least."""
    search_steps: int = 10_000
    """Env steps with random actions at most: they go on after random_steps while no task has ended
    and rewards depend on nothing but the action, so that there is nothing to plan for."""
    random_hold: tuple[int, int] = (1, 16)
    """Decisions that a random action is held, at least and at most; log-uniform between. 1, 1 draws
    a new one every time."""
    search_hold: tuple[int, int] = (4, 32)
    """The same after random_steps."""
    epsilon: float | None = None
    """ε of temporally-extended ε-greedy exploration: chance, each decision while learning, that an
    environment begins to hold a random action instead of what is planned; null is 0.01 for discrete
    actions and 0 for others, as measured in docs/results/agents.md."""
    epsilon_hold: tuple[int, int] = (1, 64)
    """Decisions that such an action is held, at least and at most; log-uniform between."""
    updates_per_step: float | None = None
    """Update-to-data ratio: updates an env step; null is 2 for discrete actions and 1 for others,
    as measured in docs/results/agents.md."""
    updates_per_call: int = 8
    """Updates in one compiled call of the learner."""
    replay_capacity: int = 100_000
    """Records kept in replay, over all environments; the memory is taken at the start."""

    def __post_init__(self):
        """Refuses numbers outside their ranges."""
        for name in ("random_hold", "search_hold", "epsilon_hold"):
            shortest, longest = getattr(self, name)
            if not 1 <= shortest <= longest <= _LONGEST_HOLD:
                raise UsageError(
                    f"collection.{name} is {shortest}, {longest}; give a shortest hold of at least "
                    f"1 and a longest one that is not below it, nor above {_LONGEST_HOLD}."
                )
        for name in ("envs", "random_steps", "search_steps", "updates_per_call"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"collection.{name} is {getattr(self, name)}; it needs to be at least 1."
                )
        if not 0.0 < self.worker_timeout < math.inf:
            raise UsageError(
                f"collection.worker_timeout is {self.worker_timeout}; give a positive, finite "
                "number of seconds."
            )
        if self.longest_episode is not None and self.longest_episode < 1:
            raise UsageError(
                f"collection.longest_episode is {self.longest_episode}; give at least 1, or null "
                "for tasks that go on forever."
            )
        if self.updates_per_step is not None and not 0 < self.updates_per_step < math.inf:
            raise UsageError(
                f"collection.updates_per_step is {self.updates_per_step}; give a positive, finite "
                "number, or null."
            )
        if self.epsilon is not None and not 0.0 <= self.epsilon <= 1.0:
            raise UsageError(
                f"collection.epsilon is {self.epsilon}; give a probability from 0 to 1, or null."
            )
        if self.replay_capacity < 3 * self.envs:
            raise UsageError(
                f"collection.replay_capacity is {self.replay_capacity} for {self.envs} "
                f"environments; give at least {3 * self.envs}."
            )

    def for_actions(self, discrete: bool) -> "CollectionConfig":
        """These settings, with the numbers that fit the kind of actions where none are given."""
        fitting = {
            "updates_per_step": 2.0 if discrete else 1.0,
            "epsilon": 0.01 if discrete else 0.0,
        }
        unsaid = {name: v for name, v in fitting.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **unsaid)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluations during a run, on an environment of their own."""

    every: int = 250
    """Env steps between evaluations."""
    episodes: int = 10
    """Episodes an evaluation, played side by side."""
    max_episode_steps: int = 10_000
    """Env steps after which an evaluation episode is cut that the environment does not end."""
    threshold: float | None = None
    """Mean return that counts as solved; the environment's own when null."""
    stop_when_solved: bool = False
    """End the run at the first evaluation that reaches the threshold."""

    def __post_init__(self):
        """Refuses counts below 1, and a threshold that no mean return can be compared with."""
        if min(self.every, self.episodes, self.max_episode_steps) < 1:
            raise UsageError(
                f"evaluation.every, episodes and max_episode_steps are {self.every}, "
                f"{self.episodes} and {self.max_episode_steps}; each needs to be at least 1."
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UsageError(
                f"evaluation.threshold is {self.threshold}; give a finite mean return, or null for "
                "the environment's own."
            )

    def decisions(self, action_repeat: int) -> int:
        """Decisions after which an evaluation episode is cut."""
        return -(-self.max_episode_steps // action_repeat)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; written to its folder as config.yaml."""

    env: str = "CartPole-v1"
    """Gymnasium id, `module:Id` included."""
    action_repeat: int = 1
    """Env steps that each action is taken for, in training and in evaluation. Horizons, holds,
    chances, γ and λ count decisions then; `steps`, the update ratio and whatever else is said in
    env steps stays in env steps. A decision that an episode's end cuts short counts whole."""
    seed: int = 0
    """Seed of everything random."""
    steps: int = 2_000
    """Env steps of the run."""
    checkpoint_every: int = 1_000
    """Env steps between checkpoints; one is also written at the end and on Ctrl-C."""
    model: WorldModelBuilder = dataclasses.field(
        default=LoopedConfig(), metadata={"registry": WORLD_MODELS}
    )
    """The world model; `model.name` chooses among the registered ones."""
    heads: ValueConfig = ValueConfig()
    """Critic and policy."""
    planning: PlanningConfig = PlanningConfig()
    """Planners; `planning.planner` chooses among the registered ones."""
    learner: LearnerConfig = LearnerConfig()
    """Losses, optimiser, targets."""
    collection: CollectionConfig = CollectionConfig()
    """Stepping and update ratio."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluations during the run."""

    def __post_init__(self):
        """Refuses counts below 1 and negative seeds."""
        if self.action_repeat < 1:
            raise UsageError(f"action_repeat is {self.action_repeat}; give at least 1.")
        if self.steps < 1 or self.checkpoint_every < 1:
            raise UsageError(
                f"steps is {self.steps} and checkpoint_every {self.checkpoint_every}; each needs "
                "to be at least 1."
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; give an integer from 0 to {2**32 - 1}.")
        loops = getattr(self.model, "depth", None)
        if loops is None and self.learner.depth.law is not DepthLaw.FIXED:
            raise UsageError(
                f"learner.depth.law is {self.learner.depth.law}, but this world model has no loops "
                "whose number could be drawn; set it to fixed."
            )
        self.planning.check_depth(loops)

    def source(self, env: EnvSource | None = None) -> EnvSource:
        """What the run's agent acts in: its own environment or one given instead, with repeats."""
        given = self.env if env is None else env
        if self.action_repeat == 1 or isinstance(given, RepeatedSource):
            return given
        return RepeatedSource(given, self.action_repeat)
