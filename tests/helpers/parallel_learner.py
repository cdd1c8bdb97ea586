"""A small learner that makes the same updates on one device, on several and in several processes.

As a script: `parallel_learner.py FILE [ADDRESS PROCESSES NUMBER]` learns on all devices and writes
the losses and the final arrays; with an address it is one of several processes.
"""

import dataclasses
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from loopwm.actions import ActionLayout
from loopwm.core import CoreConfig
from loopwm.models import LoopedConfig, Normalizer, Sizes, ValueConfig, build_networks
from loopwm.training import (
    DepthLaw,
    LearnerConfig,
    SequenceBatch,
    TrainingDepth,
    init_learner,
    on_one_device,
    update,
)
from loopwm.training.checkpoint import arrays_of

UPDATES = 24
CONFIG = LearnerConfig(
    batch_size=8,
    sequence=2,
    imagination=2,
    average_rate=0.1,
    depth=TrainingDepth(DepthLaw.LEARNED),
)


def batch_of(number: int) -> SequenceBatch:
    """One batch, drawn from its number."""
    rng = np.random.default_rng(number)
    shape = (1, CONFIG.batch_size, CONFIG.sequence)
    return SequenceBatch(
        observation=rng.normal(size=(1, shape[1], shape[2] + 1, 3)).astype(np.float32),
        action=np.eye(2, dtype=np.float32)[rng.integers(0, 2, shape)],
        reward=rng.uniform(-1.0, 1.0, shape).astype(np.float32),
        terminated=rng.random(shape) < 0.1,
        valid=np.ones(shape, bool),
    )


def only_rows(batch: SequenceBatch, rows: slice) -> SequenceBatch:
    """The batch with nothing but NaN as the observations and rewards of other rows."""
    hidden = np.ones(CONFIG.batch_size, bool)
    hidden[rows] = False
    observation, reward = batch.observation.copy(), batch.reward.copy()
    observation[:, hidden], reward[:, hidden] = np.nan, np.nan
    return dataclasses.replace(batch, observation=observation, reward=reward)


def learn(devices: int | None, rows: slice = slice(None), astray: int = 0) -> dict[str, np.ndarray]:
    """Losses of each update and the arrays after the last one, by name.

    Args:
        devices: number of devices, None for all.
        rows: rows of each batch that this process knows.
        astray: makes networks, random keys and reward scale other ones, where it is not 0.
    """
    networks = eqx.filter_jit(build_networks)(
        LoopedConfig(latent=6, hidden=6, depth=2, core=CoreConfig(width=6, layers=1)),
        ValueConfig(hidden=6, depth=1, bins=21),
        Sizes(observation=3, action=2),
        actions=ActionLayout(2, (2,)),
        key=jax.random.key(2 * astray),
    )
    config = dataclasses.replace(CONFIG, devices=devices)
    state = init_learner(networks, config, key=jax.random.key(2 * astray + 1))
    # As the trainer does: arrays of a weak type would have the update compiled twice.
    state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype) if eqx.is_inexact_array(x) else x, state)
    normalizer, losses = Normalizer.create(3), []
    for number in range(UPDATES):
        batch = only_rows(batch_of(number), rows)
        state, metrics = update(state, batch, normalizer, 1.0 + astray, config)
        losses.append(float(metrics.loss))
    return {"losses": np.asarray(losses), **arrays_of(on_one_device(state))}


def main(file: str, address: str = "", processes: str = "1", number: str = "0") -> None:
    """Learns on every device there is.

    Of several processes each knows its own rows alone, and only process 0 the right state.
    """
    count, place = int(processes), int(number)
    if count > 1:
        jax.distributed.initialize(address, count, place)
    share = CONFIG.batch_size // count
    found = learn(None, slice(place * share, (place + 1) * share), astray=place)
    np.savez(file, devices=jax.device_count(), processes=jax.process_count(), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
