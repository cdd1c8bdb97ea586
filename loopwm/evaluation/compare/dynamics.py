"""Cells of open-loop prediction: train on logged data, predict what was not trained on."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from loopwm.core import SampledDepth
from loopwm.errors import NotFinite, RunFailure
from loopwm.evaluation.compare.cost import (
    parameters,
    peak_memory,
    training_flops,
    transition_costs,
)
from loopwm.evaluation.compare.logged import Episode, Sequences, sequences, split
from loopwm.evaluation.compare.measures import nrmse_at, open_loop_measures
from loopwm.evaluation.compare.outcome_model import WithOutcome, outcome_loss
from loopwm.evaluation.compare.protocol import DynamicsProtocol
from loopwm.models import AbstractWorldModel, EveryDepth, Sizes
from loopwm.models.world_model import WorldModelBuilder
from loopwm.programs import RUNS_ONCE
from loopwm.training.deferred import DeferredConfig
from loopwm.training.open_loop import OpenLoopWorldModel
from loopwm.training.supervised import (
    Decoding,
    SupervisedConfig,
    Trajectories,
    predict,
    train_open_loop,
)

_CURVE_STEP = 5
"""Imagined steps after which the error against the depth is taken."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """Normalisation by the training data."""

    mean: Float[np.ndarray, " observation"]
    deviation: Float[np.ndarray, " observation"]
    """1 for entries that vary by no more than a millionth of their size, which may be rounding."""
    reward: float
    """Largest absolute reward, 1 where there is none."""

    @classmethod
    def of(cls, episodes: list[Episode]) -> "Scale":
        """Mean, deviation and reward scale of episodes."""
        seen = np.concatenate([e.observation for e in episodes]).astype(np.float64)
        deviation, size = seen.std(axis=0), np.abs(seen).max(axis=0)
        largest = max(float(np.max(np.abs(e.reward))) for e in episodes)
        return cls(
            mean=seen.mean(axis=0).astype(np.float32),
            deviation=np.where(deviation > 1e-6 * size, deviation, 1.0).astype(np.float32),
            reward=largest if largest > 0.0 else 1.0,
        )

    def observation(self, raw: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Normalised observations."""
        return (raw - self.mean) / self.deviation


class Measured:
    """A trained model with what it is measured on."""

    def __init__(
        self,
        builder: WorldModelBuilder,
        episodes: list[Episode],
        protocol: DynamicsProtocol,
        *,
        rate: float,
        updates: int,
        seed: int,
    ):
        """Trains the model.

        Args:
            builder: the model's configuration.
            episodes: logged data of the task and seed.
            protocol: what is the same for every family.
            rate: learning rate.
            updates: updates of the training.
            seed: seed of split, weights and batches.

        Raises:
            NotFinite: the loss is not finite.
            RunFailure: the data has too few episodes, or none that is long enough.
            UsageError: the configuration cannot be built.
        """
        self.parts, self.protocol, self.updates = split(episodes, seed=seed), protocol, updates
        self.seed, self.scale = seed, Scale.of(self.parts.train)
        sizes = Sizes(episodes[0].observation.shape[1], episodes[0].action.shape[1])
        key_model, key_train = jax.random.split(jax.random.key(seed))
        model = _build(builder, sizes, key=key_model)
        fresh = WithOutcome(model, sizes.observation, sizes.action)
        trained = train_open_loop(
            fresh, self._trajectories(), self._config(rate), outcome_loss, key=key_train
        )
        self.seconds, self.cpu_seconds = trained.wall_seconds, trained.cpu_seconds
        self.loss = trained.loss
        if not math.isfinite(trained.loss):
            raise NotFinite(f"The loss is {trained.loss} after {updates} updates.")
        assert isinstance(trained.model, WithOutcome)
        self.model = trained.model

    def _config(self, rate: float) -> SupervisedConfig:
        return SupervisedConfig(
            decoding=Decoding.EACH_STEP,
            horizon=DeferredConfig(steps=self.protocol.horizon),
            updates=self.updates,
            batch_size=self.protocol.batch_size,
            learning_rate=rate,
        )

    def _trajectories(self) -> Trajectories:
        found = sequences(
            self.parts.train,
            self.protocol.horizon,
            self.protocol.windows,
            whole=True,
            seed=self.seed,
        )
        outcome = np.stack([found.reward / self.scale.reward, found.goes_on], axis=-1)
        # The first observation has no outcome: what stands there is never read.
        outcome = np.concatenate([np.zeros_like(outcome[:, :1]), outcome], axis=1)
        joined = np.concatenate([self.scale.observation(found.observation), outcome], axis=-1)
        return Trajectories(jnp.asarray(joined, jnp.float32), jnp.asarray(found.action))

    def errors(self, episodes: list[Episode]) -> dict[str, Any]:
        """Errors on episodes that were not trained on, see `open_loop_measures`.

        Raises:
            NotFinite: a prediction is not finite.
        """
        real = self._real(episodes, max(self.protocol.steps))
        seen = self.scale.observation(real.observation)
        predicted = _rolled(self.model, seen, real)
        if not np.all(np.isfinite(predicted[real.valid])):
            raise NotFinite("Some predictions are not finite.")
        return open_loop_measures(
            np.where(real.valid[..., None], predicted, 0.0),
            real,
            seen[:, 1:],
            real.reward / self.scale.reward,
            self.protocol.steps,
        )

    def curve(self) -> dict[str, float | None]:
        """NRMSE after 5 imagined steps at other numbers of loops; empty for models without."""
        model = self.model.model
        if not isinstance(model, EveryDepth):
            return {}
        real = self._real(self.parts.test, _CURVE_STEP)
        seen = self.scale.observation(real.observation)
        found, limit = {}, 2 * model.depth
        for depth in sorted({1, 2, model.depth, limit}):
            # A drawn depth is an array, so that all of them are one program.
            rule = SampledDepth(depth=jnp.asarray(depth), max_depth=limit)
            rolled = OpenLoopWorldModel(model, rule)
            predicted = _rolled(rolled, seen, real)
            found[str(depth)] = nrmse_at(predicted, seen[:, 1:], real.valid, _CURVE_STEP)
        return found

    def costs(self) -> dict[str, Any]:
        """Parameters, FLOPs, time and memory."""
        model, action = self.model.model, self.model.action
        predictions = self.updates * self.protocol.batch_size * self.protocol.horizon
        return {
            **parameters(model),
            **transition_costs(model, action),
            "flops_training": training_flops(model, action, predictions),
            "seconds_training": self.seconds,
            "cpu_seconds_training": self.cpu_seconds,
            "peak_memory_mb": peak_memory(),
            "loss": self.loss,
            "loops": model.depth,
        }

    def _real(self, episodes: list[Episode], length: int) -> Sequences:
        return sequences(episodes, length, self.protocol.sequences, whole=False, seed=self.seed)


def _fresh(builder: WorldModelBuilder, sizes: Sizes, *, key: PRNGKeyArray) -> AbstractWorldModel:
    return builder.build(sizes, key=key)


# It runs once, so the time that a compiler takes to optimise it would be lost.
_build = eqx.filter_jit(  # pyright: ignore[reportCallIssue] -- passes on what jax.jit takes
    _fresh, compiler_options=RUNS_ONCE
)


@eqx.filter_jit
def _predicted(
    model: WithOutcome | OpenLoopWorldModel, observation: jax.Array, action: jax.Array
) -> jax.Array:
    return predict(model, observation, action, Decoding.EACH_STEP)


def _rolled(
    model: WithOutcome | OpenLoopWorldModel, seen: np.ndarray, real: Sequences
) -> np.ndarray:
    """Predictions of every step of sequences, from their first normalised observation."""
    first, action = jnp.asarray(seen[:, 0], jnp.float32), jnp.asarray(real.action)
    return np.asarray(_predicted(model, first, action))


def measure_dynamics(
    builder: WorldModelBuilder,
    episodes: list[Episode],
    protocol: DynamicsProtocol,
    *,
    rate: float,
    seed: int,
) -> dict[str, Any]:
    """Trains a model on a task's logged data and measures it.

    Args:
        builder: the model's configuration.
        episodes: logged data of the task and seed.
        protocol: what is the same for every family.
        rate: learning rate, the search's choice.
        seed: seed of split, weights and batches.

    Returns:
        `nrmse` by step, `error`, `reward_rmse`, `continuation_brier` (see `open_loop_measures`);
        `params`, `params_core`; `flops_transition`, `us_transition`; `flops_training`,
        `seconds_training`, `cpu_seconds_training`; `peak_memory_mb`; `loss` of the last update;
        `loops`; and `curve`, NRMSE after 5 steps by number of loops.

    Raises:
        NotFinite: loss or predictions are not finite.
        RunFailure: no test sequence gives an error.
    """
    trained = Measured(builder, episodes, protocol, rate=rate, updates=protocol.updates, seed=seed)
    errors = trained.errors(trained.parts.test)
    _error(errors, "test")
    return {**errors, "curve": trained.curve(), **trained.costs()}


def try_dynamics(
    builder: WorldModelBuilder,
    episodes: list[Episode],
    protocol: DynamicsProtocol,
    *,
    rate: float,
) -> float:
    """The validation error of a trial of the search, on data and weights of the search's seed.

    Raises:
        NotFinite: loss or predictions are not finite.
        RunFailure: no validation sequence gives an error.
    """
    updates = max(1, round(protocol.search.share * protocol.updates))
    seed = protocol.search.seed
    trained = Measured(builder, episodes, protocol, rate=rate, updates=updates, seed=seed)
    return _error(trained.errors(trained.parts.validation), "validation")


def _error(errors: dict[str, Any], part: str) -> float:
    """The error of a part of the data, where it has one."""
    if errors["error"] is None:
        raise RunFailure(
            f"The {part} sequences are too few, or all end in the same observation, so that there "
            "is no error; log more env steps, or choose another task."
        )
    return errors["error"]
