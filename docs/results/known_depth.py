"""Parameters at equal error where a step's depth is known, for docs/results/evidence.md.

    python docs/results/known_depth.py run automaton [--seed 0 1 2 3 4]
    python docs/results/known_depth.py run dominoes
    python docs/results/known_depth.py table [TASK ...]

One env step is predicted, every cell of it. automaton: rings of 24 cells after 4 hidden micro-steps
of rule 110. dominoes: which of 16 lie after a push that topples chains of 0 to 16, each length as
often. 20,000 pairs a seed for training, 2,000 for validation, 2,000 for the error.

looped: one convolutional block of mode `contractive`, applied 4 or 8 times. unshared: 4 or 8 such
blocks with weights of their own. single: the block once, of 2 or 4 layers (a wide pass at equal
FLOPs is the same at another size). resnet: the unshared stack without any bound. mlp: 2 or 3 hidden
layers on all cells at once. Prelude and read-out at every cell are the same but for the MLP's.

For each family and size a search over two shapes and the rates below, on data and weights of seed
10,000 and two fifths of the updates, by the error on its validation pairs. The error is the root
mean square of probability less cell, over the cells' standard deviation (0 exact, 1 as good as the
mean). Where its interquartile mean is below 0.02, about one cell in ten thousand, a task counts as
solved: where both families come there, the ratio is that of the parameters needed to solve it. It
is given for 0.05 too. Results are kept in runs/known_depth; each command uses one core.
"""

import argparse
import bisect
import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from grid_tasks import Grids, rings
from jaxtyping import Array, PRNGKeyArray
from unshared import Stack

from loopwm.core import ConvolutionConfig, FixedDepth, GridCore
from loopwm.envs import dominoes
from loopwm.evaluation.compare import Point, iso_ratio
from loopwm.evaluation.compare.statistics import iqm_interval
from loopwm.models import count_parameters
from loopwm.nn import resolve
from loopwm.stability import Mode

ROOT = pathlib.Path("runs/known_depth")
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SEARCH = 10_000
SOLVED = (0.02, 0.05)
UPDATES, BATCH, CHUNK = 2_000, 64, 50
SMALL, LARGE = (200, 500, 1_200, 3_000, 7_000), (3_000, 12_000, 50_000, 200_000, 800_000)
ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


class Loops(eqx.Module):
    """A grid core with a number of loops of its own."""

    core: GridCore
    loops: int = eqx.field(static=True)

    def __call__(self, grid: Array) -> Array:
        """Logits of every cell, shape (cells,), from a grid (cells, channels)."""
        return self.core(grid, FixedDepth(self.loops)).value[..., 0]


class Different(eqx.Module):
    """A stack of different blocks."""

    stack: Stack

    def __call__(self, grid: Array) -> Array:
        """Logits of every cell."""
        return self.stack(grid, None).value[..., 0]


class Whole(eqx.Module):
    """An MLP on all cells."""

    net: eqx.nn.MLP

    def __call__(self, grid: Array) -> Array:
        """Logits of every cell."""
        return self.net(grid.ravel())


Network = Loops | Different | Whole
Build = Callable[[tuple[int, int], bool, int, PRNGKeyArray], Network]
"""From cells and channels of a grid, whether it is a ring, width and key."""


def config(periodic: bool, width: int, mode: Mode, layers: int = 2) -> ConvolutionConfig:
    """Proportions that every family has."""
    return ConvolutionConfig(
        channels=width,
        hidden=2 * width,
        inputs=width,
        readout=2 * width,
        layers=layers,
        dimensions=1,
        periodic=periodic,
        mode=mode,
        retention_max=0.3,
    )


def looped(loops: int, layers: int = 2) -> Build:
    def build(grid, periodic, width, key):
        block = config(periodic, width, Mode.CONTRACTIVE, layers)
        return Loops(GridCore(grid[1], 1, block, key=key), loops)

    return build


def stack(blocks: int, mode: Mode) -> Build:
    def build(grid, periodic, width, key):
        return Different(Stack(grid[1], 1, config(periodic, width, mode), blocks, key=key))

    return build


def mlp(layers: int) -> Build:
    def build(grid, periodic, width, key):
        cells, channels = grid
        return Whole(eqx.nn.MLP(cells * channels, cells, width, layers, key=key))

    return build


@dataclasses.dataclass(frozen=True)
class Family:
    """Two shapes and the sizes that they are tried at."""

    shapes: tuple[Build, Build]
    sizes: tuple[int, ...]


FAMILIES = {
    "looped": Family((looped(4), looped(8)), SMALL),
    "unshared": Family((stack(4, Mode.CONTRACTIVE), stack(8, Mode.CONTRACTIVE)), SMALL),
    "resnet": Family((stack(4, Mode.FREE), stack(8, Mode.FREE)), SMALL),
    "single": Family((looped(1), looped(1, layers=4)), SMALL),
    "mlp": Family((mlp(2), mlp(3)), LARGE),
}


def pushes(seed: int, count: int) -> Grids:
    """Rows of dominoes with the pushed place of either direction, and what lies afterwards."""
    drawn = dominoes.transitions(np.random.default_rng(seed), count)
    length = drawn.observation.shape[1]
    pushed = np.eye(2 * length, dtype=np.float32)[drawn.action].reshape(count, 2, length)
    inputs = np.concatenate([drawn.observation, np.moveaxis(pushed, 1, -1)], axis=-1)
    return Grids(jnp.asarray(inputs), jnp.asarray(drawn.next_observation[..., 1]))


@dataclasses.dataclass(frozen=True)
class Task:
    """Pairs from a seed, and whether they are rings."""

    draw: Callable[[int, int], Grids]
    periodic: bool

    @functools.cached_property
    def grid(self) -> tuple[int, int]:
        """Cells and channels of an input."""
        cells, channels = self.draw(0, 1).inputs.shape[1:]
        return cells, channels

    def network(self, build: Build, size: int, key: PRNGKeyArray) -> Network:
        """The one whose number of parameters is nearest to a size."""

        def count(width: int) -> int:
            made = eqx.filter_eval_shape(build, self.grid, self.periodic, width, key)
            return count_parameters(made)

        wider = bisect.bisect_left(range(1, 4_000), size, key=count) + 1
        nearest = min((max(1, wider - 1), wider), key=lambda width: abs(count(width) - size))
        return build(self.grid, self.periodic, nearest, key)


TASKS = {"automaton": Task(rings, periodic=True), "dominoes": Task(pushes, periodic=False)}


@eqx.filter_jit
def logits(network: Network, inputs: Array) -> Array:
    """Logits of every cell of all grids."""
    return jax.lax.map(resolve(network), inputs, batch_size=200)


@eqx.filter_jit(donate="all-except-first")
def advance(data, network, moments, key, first, rate, updates):
    """So many updates with Adam at the rate's warm-up and cosine decay."""
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
    inputs, answers = data

    def loss(arrays, picked):
        made = resolve(eqx.combine(arrays, static))
        found = jax.vmap(made)(inputs[picked])
        return optax.sigmoid_binary_cross_entropy(found, answers[picked]).mean()

    def update(carry, key_and_number):
        arrays, moments = carry
        key, number = key_and_number
        picked = jax.random.randint(key, (BATCH,), 0, len(inputs))
        change, moments = ADAM.update(jax.grad(loss)(arrays, picked), moments)
        warm = jnp.minimum(1.0, (number + 1) / 50)
        step = rate * warm * (0.51 + 0.49 * jnp.cos(jnp.pi * number / updates))
        return (jax.tree.map(lambda x, d: x - step * d, arrays, change), moments), None

    keys = jax.random.split(key, CHUNK)
    (arrays, moments), _ = jax.lax.scan(
        update, (arrays, moments), (keys, first + jnp.arange(CHUNK))
    )
    return eqx.combine(arrays, static), moments


def trained(network: Network, pairs: Grids, rate: float, updates: int, key) -> Network:
    """The network after its training."""
    moments = ADAM.init(eqx.filter(network, eqx.is_inexact_array))
    for number in range(0, updates, CHUNK):
        network, moments = advance(
            (pairs.inputs, pairs.answers),
            network,
            moments,
            jax.random.fold_in(key, number),
            jnp.asarray(number),
            jnp.asarray(rate),
            jnp.asarray(updates),
        )
    return network


def measured(
    name: str, family: str, size: int, shape: int, rate: float, seed: int, trial: bool
) -> dict:
    """Error and share of exact grids of one training."""
    task, build = TASKS[name], FAMILIES[family].shapes[shape]
    key_network, key_batches = jax.random.split(jax.random.key(seed))
    network = task.network(build, size, key_network)
    updates = CHUNK * round(0.4 * UPDATES / CHUNK) if trial else UPDATES
    network = trained(network, task.draw(seed, 20_000), rate, updates, key_batches)
    test = task.draw(seed + (2_000_000 if trial else 1_000_000), 2_000)
    found, real = np.asarray(logits(network, test.inputs)), np.asarray(test.answers)
    wrong = jax.nn.sigmoid(found) - real
    return {
        "shape": shape,
        "rate": rate,
        "params": count_parameters(network),
        "error": float(np.sqrt(np.mean(np.square(wrong))) / real.std()),
        "exact": float(np.mean(np.all((found > 0) == (real > 0.5), axis=-1))),
    }


def kept(path: pathlib.Path, make: Callable[[], dict]) -> dict:
    """What the file holds, made where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(make()))
        part.rename(path)
        print(path, path.read_text(), flush=True)
    return json.loads(path.read_text())


def searched(name: str, family: str, size: int) -> tuple[int, float]:
    """Shape and rate of the smallest error on validation pairs."""
    at, found = ROOT / name / f"{family}-{size}", {}
    for shape, rate in itertools.product(range(2), RATES):
        make = functools.partial(measured, name, family, size, shape, rate, SEARCH, True)
        error = kept(at / f"trial-{shape}-{rate:g}.json", make)["error"]
        found[shape, rate] = error if np.isfinite(error) else np.inf
    return min(found, key=lambda choice: found[choice])


def run(name: str, seeds: list[int]) -> None:
    """Searches and cells of a task, smallest first."""
    for family, kind in FAMILIES.items():
        for size in kind.sizes:
            shape, rate = searched(name, family, size)
            at = ROOT / name / f"{family}-{size}"
            for seed in seeds:
                make = functools.partial(measured, name, family, size, shape, rate, seed, False)
                cell = kept(at / f"seed-{seed}.json", make)
                if (cell["shape"], cell["rate"]) != (shape, rate):
                    raise SystemExit(f"{at} has cells of another choice; move them away.")


def cells(name: str, family: str) -> dict[int, dict[int, dict]]:
    """Finished cells by size and seed."""
    found: dict[int, dict[int, dict]] = {}
    for size in FAMILIES[family].sizes:
        for file in sorted((ROOT / name / f"{family}-{size}").glob("seed-*.json")):
            found.setdefault(size, {})[int(file.stem[5:])] = json.loads(file.read_text())
    return found


def points(name: str, family: str) -> list[Point]:
    """The family's errors at every size; what diverged counts as an error of 10."""
    return [
        Point(
            next(iter(seeds.values()))["params"],
            {s: c["error"] if np.isfinite(c["error"]) else 10.0 for s, c in seeds.items()},
        )
        for seeds in cells(name, family).values()
    ]


def table(name: str) -> None:
    """Every cell, and the ratios to ours."""
    print(
        f"\n{name}\n\n| family | parameters | shape, rate | error, with interval | seeds | exact |"
    )
    print("|---|---|---|---|---|---|")
    for family in FAMILIES:
        for point, seeds in zip(points(name, family), cells(name, family).values(), strict=True):
            some = next(iter(seeds.values()))
            middle = iqm_interval([np.array(list(point.values.values()))])
            errors = ", ".join(f"{cell['error']:.2g}" for cell in seeds.values())
            exact = ", ".join(f"{cell['exact']:.3f}" for cell in seeds.values())
            spread = "" if middle.low is None else f" ({middle.low:.2g} to {middle.high:.2g})"
            print(
                f"| {family} | {some['params']:,} | {some['shape']}, {some['rate']:g} "
                f"| {middle.estimate:.2g}{spread} "
                f"| {errors} "
                f"| {exact} |"
            )
    print("\n| solved at | family | its parameters over ours at equal error | interval |")
    print("|---|---|---|---|")
    for solved, family in itertools.product(SOLVED, list(FAMILIES)[1:]):
        fronts = points(name, "looped"), points(name, family)
        ratio = iso_ratio([fronts], logarithmic=True, solved=solved)
        if ratio is None:
            continue
        ends = ["open" if x is None else f"{x:.3g}" for x in (ratio.low, ratio.high)]
        known = "unknown" if ratio.estimate is None else f"{ratio.estimate:.3g}"
        print(f"| {solved} | {family} | {known} ({ratio.bound}) | {' to '.join(ends)} |")


def main() -> None:
    """Runs or prints what is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("tasks", nargs="*", help=f"some of {', '.join(TASKS)}")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    words = parser.parse_args()
    unknown = sorted(set(words.tasks) - set(TASKS))
    if unknown:
        parser.error(f"there is no task {unknown[0]}; give some of {', '.join(TASKS)}")
    for name in words.tasks or TASKS:
        if words.what == "run":
            run(name, words.seed)
        else:
            table(name)


if __name__ == "__main__":
    main()
