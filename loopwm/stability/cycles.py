"""Whether a loop has settled, and on what: a fixed point, or a cycle of some period.

At block boundaries, from the states after each loop; and inside the block, where each layer's
output can settle by itself. In looped language models every layer of the block was found to reach
a fixed point of its own (Blayney et al., arXiv 2604.11791). All of it is observed up to a tolerance
and a number of loops: level `empirical`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.errors import UsageError
from loopwm.stability.bounds import Level
from loopwm.stability.checks import check_update
from loopwm.stability.trajectories import fresh


@dataclasses.dataclass(frozen=True)
class Cycle:
    """The shortest period at which the last states repeat; level `empirical`."""

    period: int | None
    """1 for a fixed point, p for a cycle of p states, None when nothing repeats."""
    distance: float
    """Largest ‖h_{t+p} − h_t‖₂ in the window for that period, and the smallest over all periods
    when none repeats; NaN when a state is NaN or infinite."""
    distances: Float[np.ndarray, " max_period"]
    """The same for each period 1, 2, ..., shape (max_period,)."""
    tolerance: float
    """Distance up to which states count as equal; a cycle smaller than that is called a point."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


@dataclasses.dataclass(frozen=True)
class LayerCycle:
    """What the output of one layer does from loop to loop; level `empirical`."""

    layer: int
    """Index of the layer in the block."""
    name: str
    """Type of the layer, or name of the function."""
    residuals: Float[np.ndarray, " loops"]
    """‖x_{t+1} − x_t‖₂ of its output from loop to loop, shape (steps − 1,)."""
    cycle: Cycle
    """Period of its output."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


def detect_cycle(
    states: Array | np.ndarray, *, tolerance: float, max_period: int | None = None
) -> Cycle:
    r"""Finds the smallest p with $\|h_{t+p} - h_t\|_2 \le$ tolerance at the end of a trajectory.

    The window is the last `max_period` states, each compared with the one p before it. A loop that
    still moves, but by less than the tolerance, cannot be told from one at rest: choose it far
    below the size of the state, and above the rounding.

    Args:
        states: h_0 ... h_T of a loop at block boundaries, shape (T + 1, *state), at least 3 states.
        tolerance: distance up to which states count as equal, positive.
        max_period: longest period looked for; the longest that fits twice, T // 2, if None.

    Returns:
        The period and the distances.

    Raises:
        UsageError: there are too few states for the period, or an argument is out of range.
    """
    if np.ndim(states) < 1 or len(states) < 3:
        raise UsageError(f"The states have shape {np.shape(states)}; pass at least 3 of them.")
    values = np.asarray(states, np.float64).reshape(len(states), -1)
    longest = len(values) // 2
    max_period = (len(values) - 1) // 2 if max_period is None else max_period
    if not 1 <= max_period <= longest:
        raise UsageError(
            f"max_period is {max_period} for {len(values)} states; give a number from 1 to"
            f" {longest}."
        )
    if not tolerance > 0:
        raise UsageError(f"tolerance is {tolerance}; give a positive number.")
    distances = np.asarray([_distance(values, p, max_period) for p in range(1, max_period + 1)])
    repeats = distances <= tolerance
    found = int(np.argmax(repeats)) if repeats.any() else None
    return Cycle(
        period=None if found is None else found + 1,
        distance=float(np.min(distances) if found is None else distances[found]),
        distances=distances,
        tolerance=tolerance,
    )


def layer_cycles(
    layers: Sequence[Callable[..., object]],
    state: Array | np.ndarray,
    steps: int,
    *,
    tolerance: float,
    max_period: int | None = None,
) -> tuple[LayerCycle, ...]:
    """Follows the output of every layer of a block from loop to loop.

    One loop is h → layers[-1](... layers[0](h)). Each output decides the next, so in the end all
    have the period of the block, each at states of its own; what differs is how large their
    residuals are and how fast they fall, and so which meets the tolerance when.

    Args:
        layers: callables applied in turn; shapes in between may differ, the last one returns to
            the shape of the state.
        state: h_0, any shape, float32 or float64.
        steps: number of loops, at least 3.
        tolerance: distance up to which outputs count as equal, positive.
        max_period: longest period looked for; half the loops if None.

    Returns:
        One result per layer; that of the last layer is the block's.

    Raises:
        UsageError: there is no layer, the block cannot be repeated, or see `detect_cycle`.
    """
    if len(layers) == 0:
        raise UsageError("There are no layers; pass at least one callable.")
    if steps < 3:
        raise UsageError(f"steps is {steps}; give at least 3 loops.")
    state = np.asarray(state)
    with jax.enable_x64(state.dtype == np.float64):
        check_update(lambda h: _outputs(layers, h)[-1], state)
        outputs = _follow(tuple(map(fresh, layers)), jnp.asarray(state), steps)
    results = []
    for index, (layer, output) in enumerate(zip(layers, outputs, strict=True)):
        flat = np.asarray(output, np.float64).reshape(steps, -1)
        name = layer.__name__ if hasattr(layer, "__name__") else type(layer).__name__
        with np.errstate(invalid="ignore"):  # inf − inf is NaN, and stays
            residuals = np.linalg.norm(np.diff(flat, axis=0), axis=1)
        cycle = detect_cycle(flat, tolerance=tolerance, max_period=max_period)
        results.append(LayerCycle(index, name, residuals, cycle))
    return tuple(results)


@eqx.filter_jit
def _follow(layers: tuple[Callable, ...], state: Array, steps: int) -> list[Array]:
    """Output of every layer in every loop, each of shape (steps, *output)."""

    def body(h, _):
        outputs = _outputs(layers, h)
        return outputs[-1], outputs

    return jax.lax.scan(body, state, None, steps)[1]


def _outputs(layers: Sequence[Callable], h: Array) -> list[Array]:
    outputs = []
    for layer in layers:
        h = layer(h)
        outputs.append(h)
    return outputs


def _distance(values: np.ndarray, period: int, window: int) -> float:
    """Largest distance of the last `window` states from those one period before."""
    late = values[max(len(values) - window, period) :]
    early = values[len(values) - len(late) - period : len(values) - period]
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, and stays
        return float(np.max(np.linalg.norm(late - early, axis=1)))
