"""Grids, what is asked of every cell, and the depths to train at, for grids.py and its kin."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from loopwm.core import AbstractDepthRule, FixedDepth, SampledDepth, poisson_depth
from loopwm.envs import automaton, flood_fill, sliding_ice


@dataclasses.dataclass(frozen=True)
class Grids:
    """Input grids and what is asked of every cell."""

    inputs: Array
    """Shape (count, *cells, channels), float32."""
    answers: Array
    """Shape (count, *cells), 0 or 1, float32."""
    depth: np.ndarray | None = None
    """Sequential steps that each grid needs, shape (count,), where they differ."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Data and depths of a task."""

    train: Grids
    tests: dict[str, Grids]
    depths: tuple[int, ...]
    """Depths at which exactness is measured."""
    rule: Callable[[PRNGKeyArray], AbstractDepthRule]
    """Depth of one training grid."""


def mazes(seed: int, count: int, size: int) -> Grids:
    """Random mazes and the cells connected with the start."""
    drawn = flood_fill.sample(np.random.default_rng(seed), count, size)
    return Grids(jnp.asarray(drawn.inputs()), jnp.asarray(drawn.reached, jnp.float32), drawn.depth)


def mazes_of_every_depth(seed: int, drawn: int, each: int, size: int) -> Grids:
    """Random mazes of several wall densities, at most so many of each depth."""
    rng = np.random.default_rng(seed)
    parts = [
        flood_fill.sample(rng, drawn, size, wall_probability=p) for p in (0.3, 0.35, 0.4, 0.45)
    ]
    depth = np.concatenate([part.depth for part in parts])
    known = range(1, depth.max() + 1)
    kept = [rng.permutation(np.flatnonzero(depth == d))[:each] for d in known]
    kept = rng.permutation(np.concatenate(kept))
    inputs = np.concatenate([part.inputs() for part in parts])[kept]
    reached = np.concatenate([part.reached for part in parts])[kept]
    return Grids(jnp.asarray(inputs), jnp.asarray(reached, jnp.float32), depth[kept])


def rings(seed: int, count: int) -> Grids:
    """Random rings of 24 cells and what they are after 4 steps of rule 110."""
    drawn = automaton.sample(np.random.default_rng(seed), count)
    before = jnp.asarray(drawn.before, jnp.float32)
    return Grids(2.0 * before[..., None] - 1.0, jnp.asarray(drawn.after, jnp.float32))


def flood_task(seed: int, mean: float, largest: int, balanced: bool) -> Task:
    """Flood fill on 8×8, tested on 8×8 and on 16×16, which is not in the training data."""
    return Task(
        train=mazes_of_every_depth(seed, 100_000, 800, 8) if balanced else mazes(seed, 20_000, 8),
        tests={"8x8": mazes(1_000_000, 1000, 8), "16x16": mazes(1_000_001, 500, 16)},
        depths=(20, 30, 40, 60),
        rule=lambda key: SampledDepth(depth=poisson_depth(key, mean, largest), max_depth=largest),
    )


def automaton_task(seed: int, depth: int) -> Task:
    """Rule 110 with four hidden micro-steps, of which the end alone is supervised."""
    return Task(
        train=rings(seed, 20_000),
        tests={"ring 24": rings(1_000_000, 2000)},
        depths=(depth,),
        rule=lambda key: FixedDepth(depth),
    )


def slides(seed: int, count: int, size: int, longest: int) -> Grids:
    """Slides on ice: observation and direction of every cell, and where the agent rests."""
    drawn = sliding_ice.transitions(np.random.default_rng(seed), count, size=size, longest=longest)
    direction = np.eye(4, dtype=np.float32)[drawn.action][:, None, None]
    direction = np.broadcast_to(direction, (*drawn.observation.shape[:-1], 4))
    inputs = np.concatenate([drawn.observation, direction], axis=-1)
    rests = drawn.next_observation[..., 0]
    return Grids(jnp.asarray(inputs), jnp.asarray(rests), drawn.true_depth)


def ice_task(seed: int, mean: float, largest: int) -> Task:
    """Sliding ice, slides of up to 6 on 8×8, tested on slides of up to 14 on 16×16."""
    return Task(
        train=slides(seed, 20_000, 8, 6),
        tests={"8x8": slides(1_000_000, 1000, 8, 6), "16x16": slides(1_000_001, 1000, 16, 14)},
        depths=(8, 16, 24, 40),
        rule=lambda key: SampledDepth(depth=poisson_depth(key, mean, largest), max_depth=largest),
    )
