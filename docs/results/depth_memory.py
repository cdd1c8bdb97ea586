"""Memory of the training-depth options, for docs/results/depth_gradients.md.

    python docs/results/depth_memory.py

Compiles one update of the learner for CartPole-v1 with the default settings (depth 4, batch 64,
sequences of 5 steps) and one option changed, and prints a Markdown row an option: bytes that the
learner keeps between updates, and bytes of temporary buffers of the update as XLA reports them.
"""

import argparse

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from loopwm.envs import Spaces
from loopwm.models import Normalizer
from loopwm.run import resolve_config
from loopwm.session import build_run_networks
from loopwm.settings import parse_overrides
from loopwm.training import RunConfig, init_learner
from loopwm.training.learner import _updates

OPTIONS = {
    "as it is: law fixed, gradient full, no average": [],
    "law uniform": ["learner.depth.law=uniform"],
    "law poisson": ["learner.depth.law=poisson"],
    "law learned": ["learner.depth.law=learned"],
    "law curriculum": ["learner.depth.law=curriculum"],
    "law poisson, max_depth 24": ["learner.depth.law=poisson", "learner.depth.max_depth=24"],
    "law poisson, max_depth 4": ["learner.depth.law=poisson", "learner.depth.max_depth=4"],
    "law fixed, model.depth 12": ["model.depth=12"],
    "law poisson, gradient full, checkpoints": [
        "learner.depth.law=poisson",
        "model.gradient.checkpoint=true",
    ],
    "law poisson, gradient truncated(2)": [
        "learner.depth.law=poisson",
        "model.gradient.kind=truncated",
        "model.gradient.loops=2",
    ],
    "law poisson, gradient implicit": [
        "learner.depth.law=poisson",
        "model.gradient.kind=implicit",
    ],
    "average of the networks": ["learner.average_rate=0.01"],
}


def inputs(config: RunConfig, spaces: Spaces) -> tuple:
    """What an update is given: constants, the learner's state and one batch."""
    networks = build_run_networks(config, spaces)
    state = init_learner(networks, config.learner, key=jax.random.key(0))
    normalizer = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), Normalizer.create(spaces.observation.size)
    )
    batch, steps = config.learner.batch_size, config.learner.sequence
    arrays = (
        np.zeros((1, batch, steps + 1, spaces.observation.size), np.float32),
        np.zeros((1, batch, steps, spaces.action.size), np.float32),
        np.zeros((1, batch, steps), np.float32),
        np.zeros((1, batch, steps), bool),
        np.ones((1, batch, steps), bool),
    )
    frozen = (normalizer, jnp.ones(()), config.learner)
    return frozen, state, tuple(map(jnp.asarray, arrays))


def size(tree) -> int:
    """Bytes of all arrays of a tree, PRNG keys left out."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return sum(x.nbytes for x in leaves if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--option", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    spaces = Spaces.of(gym.make("CartPole-v1"))
    print("| option | largest depth | kept, bytes | temporary, bytes |\n|---|---|---|---|")
    for name in parser.parse_args().option:
        config = resolve_config("CartPole-v1", overrides=parse_overrides(OPTIONS[name]))
        law, depth = config.learner.depth, config.model.depth
        largest = depth if law.law == "fixed" else law.largest_for(depth)
        given = inputs(config, spaces)
        analysis = _updates.lower(*given).compile().compiled.memory_analysis()
        print(
            f"| {name} | {largest} | {size(given[1]):,} | {analysis.temp_size_in_bytes:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
