"""Supervised open-loop training on arrays: decoding each step against deferred decoding."""

import dataclasses
import enum
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.models import AuxiliaryLoss, present
from loopwm.models.ranges import check_not_negative, check_positive
from loopwm.nn import resolve
from loopwm.training.deferred import DeferredConfig, movement_excess
from loopwm.training.open_loop import AbstractOpenLoop

Loss = Callable[[Float[Array, "*prediction"], Float[Array, "*observation"]], Float[Array, ""]]


class Decoding(enum.StrEnum):
    """Which of the K rolled states are decoded."""

    EACH_STEP = "each_step"
    """All of them, and each is supervised."""
    DEFERRED = "deferred"
    """The last alone; the others are held to the encoder's states."""


class Trajectories(NamedTuple):
    """Sequences of K actions from one observation."""

    observation: Float[Array, "count steps_plus_one *observation"]
    """o_0 … o_K."""
    action: Float[Array, "count steps *action"]
    """u_0 … u_{K−1}."""


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Supervised open-loop training."""

    decoding: Decoding = Decoding.DEFERRED
    """Which states are decoded: each_step or deferred."""
    horizon: DeferredConfig = DeferredConfig(steps=8)
    """K, its curriculum (of both ways to decode), and the weight and limit of movement."""
    consistency_weight: float = 1.0
    """α: weight of ‖z_k − sg E(o_k)‖² a latent entry; deferred decoding alone."""
    updates: int = 1_000
    """Updates of the whole training."""
    batch_size: int = 128
    """Sequences an update."""
    learning_rate: float = 3e-3
    """Largest step size of Adam, after a warm-up; it decays along a cosine to 2 % of it."""
    gradient_clip: float = 1.0
    """Largest global norm of a gradient."""
    auxiliary_weight: float = 1.0
    """Weight of the world model's own loss term, where it brings one."""

    def __post_init__(self):
        """Refuses numbers outside their ranges, and a way to decode that is none."""
        object.__setattr__(self, "decoding", member(Decoding, self.decoding, "decoding"))
        if self.horizon.steps is None:
            raise UsageError("horizon.steps is null; give K, the actions of a sequence.")
        if min(self.updates, self.batch_size) < 1:
            raise UsageError(
                f"updates and batch_size are {self.updates} and {self.batch_size}; give at least 1."
            )
        check_positive("", self, "learning_rate", "gradient_clip")
        check_not_negative("", self, "consistency_weight", "auxiliary_weight")


class Trained(NamedTuple):
    """A model trained on trajectories."""

    model: AbstractOpenLoop
    loss: float
    """Loss of the last update."""
    cpu_seconds: float
    """CPU seconds of all updates but the first, which compiles."""
    wall_seconds: float
    """Wall-clock seconds of the same."""


def roll(
    model: AbstractOpenLoop,
    observation: Float[Array, "*observation"],
    action: Float[Array, "steps *action"],
) -> Float[Array, "steps *latent"]:
    """z_1 … z_K from o_0 and u_0 … u_{K−1}, constrained weights resolved by the caller."""

    def body(z, bound):
        following = model.advance(z, bound)
        return following, following

    return _scan(model, body, observation, action)[1]


def _scan(
    model: AbstractOpenLoop,
    body: Callable[[Array, PyTree], tuple[Array, Any]],
    observation: Float[Array, "*observation"],
    action: Float[Array, "steps *action"],
) -> tuple[Array, Any]:
    """The scan of a body of z_k and the bound u_k, from o_0."""
    arrays, rest = eqx.partition(eqx.filter_vmap(model.bind)(action), eqx.is_array)
    return jax.lax.scan(
        lambda z, some: body(z, eqx.combine(some, rest)), model.encode(observation), arrays
    )


def predict(
    model: AbstractOpenLoop,
    observation: Float[Array, "count *observation"],
    action: Float[Array, "count steps *action"],
    decoding: Decoding,
) -> Float[Array, "count *predictions"]:
    """Predictions from first observations.

    Args:
        model: the model.
        observation: o_0 of each sequence, shape (count, *observation).
        action: u_0 … u_{K−1}, shape (count, K, *action).
        decoding: which states are decoded.

    Returns:
        Shape (count, K, *prediction) where each step is decoded, (count, *prediction) of the last
        step where decoding is deferred.
    """
    resolved = resolve(model)

    def one(o, u):
        if decoding is Decoding.EACH_STEP:
            return jax.vmap(resolved.decode)(roll(resolved, o, u))
        step = lambda z, bound: (resolved.advance(z, bound), None)  # noqa: E731
        return resolved.decode(_scan(resolved, step, o, u)[0])

    return jax.vmap(one)(observation, action)


def open_loop_loss(
    model: AbstractOpenLoop,
    observation: Float[Array, "steps_plus_one *observation"],
    action: Float[Array, "steps *action"],
    steps: Int[Array, ""],
    config: SupervisedConfig,
    loss: Loss,
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    r"""Loss of one sequence whose first K steps count.

    Decoding each step, the mean of the K losses. Deferred, the loss at K
    $+\ \alpha \frac1K \sum_{k \le K} \|z_k - \mathrm{sg}\,E(o_k)\|^2
    + \beta \max(0, \sum_{k \le K} \|z_k - z_{k-1}\| - K C)$. Both ways, the model's own loss
    term on the K steps is added where it has one and a key is given.

    Args:
        model: the model, constrained weights resolved.
        observation: o_0 … o_H, shape (H + 1, *observation).
        action: u_0 … u_{H−1}, shape (H, *action).
        steps: K, scalar in 1..H.
        config: weights and which states are decoded.
        loss: loss of one prediction, from the prediction and the observation.
        key: PRNG key of the model's own loss term, which is left out without one.

    Returns:
        The loss, scalar.

    Source: LoopWM (arXiv 2606.18208), deferred decoding.
    """
    states = roll(model, observation[0], action)
    inside = jnp.arange(len(action)) < steps
    own = jnp.zeros(())
    if key is not None and isinstance(model, AuxiliaryLoss):
        own = config.auxiliary_weight * model.auxiliary(observation, action, inside, key=key)
    if config.decoding is Decoding.EACH_STEP:
        each = jax.vmap(lambda z, o: loss(model.decode(z), o))(states, observation[1:])
        return jnp.sum(jnp.where(inside, each, 0.0)) / steps + own
    total = loss(model.decode(states[steps - 1]), observation[steps]) + own
    states = present(model, states)
    if config.consistency_weight > 0.0:
        encoded = jax.lax.stop_gradient(jax.vmap(model.encode)(observation[1:]))
        distance = jnp.mean(
            (states - present(model, encoded)) ** 2, axis=tuple(range(1, states.ndim))
        )
        held = jnp.sum(jnp.where(inside, distance, 0.0)) / steps
        total = total + config.consistency_weight * held
    if config.horizon.movement_weight > 0.0:
        path = jnp.concatenate([present(model, model.encode(observation[0]))[None], states])
        path = path.reshape(len(path), -1)
        excess = movement_excess(path, steps, config.horizon.movement_limit)
        total = total + config.horizon.movement_weight * excess
    return total


def train_open_loop(
    model: AbstractOpenLoop,
    data: Trajectories,
    config: SupervisedConfig,
    loss: Loss,
    *,
    key: PRNGKeyArray,
) -> Trained:
    """Trains a model open-loop on sequences of K actions.

    Args:
        model: freshly initialised; see `OpenLoopWorldModel` and `OpenLoopGrid`.
        data: sequences of K steps.
        config: how, and for how long.
        loss: loss of one prediction, from the prediction and the observation.
        key: PRNG key of the batches.

    Returns:
        The trained model, its last loss, and the time.

    Raises:
        UsageError: the sequences have another number of steps than K, or observations and
            actions do not go together.
    """
    if data.action.shape[1] != config.horizon.steps:
        raise UsageError(
            f"The sequences have {data.action.shape[1]} steps and horizon.steps is "
            f"{config.horizon.steps}; give sequences of as many."
        )
    count, steps = data.action.shape[:2]
    if count == 0 or data.observation.shape[:2] != (count, steps + 1):
        raise UsageError(
            f"There are observations of shape {data.observation.shape} for actions of shape "
            f"{data.action.shape}; give as many sequences of both, at least one, with an "
            "observation more than actions in each."
        )
    optimiser = _optimiser(config)

    # Rate and key come from outside: trainings that differ in them, or in length, are one program.
    @eqx.filter_jit(donate="all-except-first")
    def update(frozen, carry, number, rate, key_data):
        data, (trained, state) = frozen, carry
        step_key = jax.random.wrap_key_data(key_data)
        picked = jax.random.randint(step_key, (config.batch_size,), 0, len(data.action))
        steps = config.horizon.horizons(
            number, config.batch_size, key=jax.random.fold_in(step_key, 2)
        )
        keys = jax.random.split(jax.random.fold_in(step_key, 1), config.batch_size)

        def mean(current):
            resolved = resolve(current)

            def one(o, u, own_steps, own_key):
                return open_loop_loss(resolved, o, u, own_steps, config, loss, key=own_key)

            batch = data.observation[picked], data.action[picked]
            return jnp.mean(jax.vmap(one)(*batch, steps, keys))

        value, gradient = eqx.filter_value_and_grad(mean)(trained)
        change, state = optimiser.update(gradient, state)
        change = jax.tree.map(lambda entry: -rate * entry, change)
        return (eqx.apply_updates(trained, change), state), value

    copy = jax.tree.map(lambda x: jnp.array(x) if eqx.is_array(x) else x, model)
    carry = (copy, optimiser.init(eqx.filter(copy, eqx.is_inexact_array)))
    value, began = jnp.zeros(()), (0.0, 0.0)
    rates = _rates(config)
    keys = np.asarray(jax.random.key_data(jax.random.split(key, config.updates)))
    for number in range(config.updates):
        carry, value = update(data, carry, np.int32(number), rates[number], keys[number])
        if number == 0:
            jax.block_until_ready(value)
            began = time.process_time(), time.perf_counter()
    last = float(value)
    spent = time.process_time() - began[0], time.perf_counter() - began[1]
    return Trained(carry[0], last, *spent)


def _optimiser(config: SupervisedConfig) -> optax.GradientTransformation:
    """Clipping and Adam without its rate, over one vector: fewer operations to compile."""
    return optax.flatten(
        optax.chain(optax.clip_by_global_norm(config.gradient_clip), optax.scale_by_adam())
    )


def _rates(config: SupervisedConfig) -> Float[np.ndarray, " updates"]:
    """The rate of every update: a warm-up, then a cosine."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        min(50, config.updates // 2),
        config.updates + 1,
        0.02 * config.learning_rate,
    )
    return np.asarray(schedule(jnp.arange(config.updates)), np.float32)


__all__ = [
    "Decoding",
    "Loss",
    "SupervisedConfig",
    "Trained",
    "Trajectories",
    "open_loop_loss",
    "predict",
    "roll",
    "train_open_loop",
]
