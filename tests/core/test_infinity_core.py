"""The core in the ∞-norm: its certificate against adversaries, and its mathematics by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import (
    RESULTS,
    FixedDepth,
    GridCore,
    InfinityConfig,
    InfinityUpdate,
    Meeting,
    ResidualHalting,
    SampledDepth,
    iterate,
)
from loopwm.errors import UsageError
from loopwm.nn import resolve
from loopwm.nn.infinity import Beside, L1CappedMix, NeighbourExtremum
from loopwm.stability import Level, Norm, attack, certify, norms

CELLS, CHANNELS, GAMMA = (2, 3), 4, 0.9
SIZE = int(np.prod(CELLS)) * CHANNELS


def _core(mixing: str, seed: int = 5, rest: bool = False) -> GridCore:
    config = InfinityConfig(
        channels=CHANNELS,
        inputs=3,
        gamma=GAMMA,
        meeting=Meeting(mixing),
        heads=2,
        readout=5,
        rest=rest,
    )
    build = eqx.filter_jit(lambda key: GridCore(2, 1, config, key=key))
    return build(jax.random.key(seed))


@pytest.fixture(scope="module")
def cores():
    neighbours, attention = _core("neighbours"), _core("attention")

    def loud(core, factor):
        return jax.tree.map(lambda x: factor * x, core)

    return {
        "neighbours": neighbours,
        "neighbours, loud": loud(neighbours, 30.0),
        "rest, loud": loud(_core("neighbours", rest=True), 30.0),
        "gated, loud": loud(_core("gated", rest=True), 30.0),
        "attention": attention,
        "attention, loud": loud(attention, 30.0),
    }


NAMES = ["neighbours", "neighbours, loud", "rest, loud", "gated, loud", "attention"]
NAMES.append("attention, loud")


@eqx.filter_jit
def _bind(core, grid):
    core = resolve(core)
    return core.bind(core.prelude(grid))


@pytest.fixture
def grid(rng):
    return jnp.asarray(rng.normal(size=(*CELLS, 2)), jnp.float32)


@pytest.fixture(scope="module")
def updates(cores):
    grid = jnp.asarray(np.random.default_rng(8).normal(size=(*CELLS, 2)), jnp.float32)
    return {name: _bind(core, grid) for name, core in cores.items()}


@pytest.mark.parametrize("name", NAMES)
def test_certificate_is_global_at_gamma_in_the_infinity_norm(name, cores):
    certificate = certify(cores[name])
    assert certificate.level is Level.GLOBAL and certificate.norm is Norm.INFINITY
    assert certificate.rate == pytest.approx(GAMMA, rel=1e-4) and certificate.rate <= GAMMA
    assert certificate.condition == np.inf and len(certificate.layers) == 5
    assert certify(resolve(cores[name])).rate == certificate.rate


@eqx.filter_jit
def _measure(update, x, y):
    """Ratios of pairs, and the exact constant at each x: the row sums of the Jacobian."""
    moved = jax.vmap(lambda a, b: update.norm(update(a) - update(b)) / update.norm(a - b))(x, y)
    jacobians = jax.vmap(jax.jacobian(lambda h: update(h).ravel()))(x)
    sums = jnp.abs(jacobians.reshape(len(x), SIZE, SIZE)).sum(axis=-1)
    return moved, sums.max(axis=-1), update.rate()


@pytest.mark.parametrize("name", NAMES)
def test_pairs_and_jacobians_near_and_far_keep_to_the_rate(name, cores, updates, rng):
    scale = 10.0 ** rng.uniform(-1, 4, size=(64, 1, 1, 1))
    x = jnp.asarray(scale * rng.normal(size=(64, *CELLS, CHANNELS)), jnp.float32)
    # Differences of one size everywhere are the worst for row sums.
    y = x + jnp.asarray(0.3 * scale * rng.choice([-1.0, 1.0], size=x.shape), jnp.float32)
    ratios, exact, rate = _measure(updates[name], x, y)
    assert float(ratios.max()) <= float(rate) * (1 + 1e-4)
    assert float(exact.max()) <= float(rate) * (1 + 1e-6)
    assert float(rate) <= certify(cores[name]).rate * (1 + 1e-5)
    assert float(exact.max()) >= 0.3 * float(rate)


def _flat(update):
    return lambda x: update(x.reshape(*CELLS, CHANNELS)).ravel()


@pytest.mark.parametrize("name", ["neighbours", "neighbours, loud", "attention"])
def test_the_adversary_does_not_exceed_the_rate(name, cores, updates, key):
    result = attack(_flat(updates[name]), norms.infinity, SIZE, key=key, starts=8, steps=40)
    assert 0.5 * GAMMA < result.ratio <= certify(cores[name]).rate * (1 + 1e-5)


def test_a_core_without_mixes_passes_a_signal_on_at_gamma(grid):
    config = InfinityConfig(channels=CHANNELS, inputs=3, gamma=GAMMA, mixes=0, readout=5)
    core = GridCore(2, 1, config, key=jax.random.key(2))
    certificate = certify(core)
    assert len(certificate.layers) == 1 and certificate.rate == pytest.approx(GAMMA, rel=1e-4)
    update = _bind(core, grid)
    h = jnp.zeros((*CELLS, CHANNELS)).at[0, 0].set(50.0)
    moved = update(h) - update.offset
    expected = np.zeros(CELLS)
    expected[0, 0] = expected[0, 1] = expected[1, 0] = 50.0 * GAMMA
    np.testing.assert_allclose(moved[..., 0], expected, rtol=1e-6)


def test_the_adversary_breaks_a_core_without_its_cap(cores, grid, key):
    def weights(core):
        return [layer.weight for layer in core.block.layers if isinstance(layer, L1CappedMix)]

    core = cores["neighbours"]
    broken = eqx.tree_at(weights, core, [2.0 * weight.value() for weight in weights(core)])
    update = _bind(broken, grid)
    assert attack(_flat(update), norms.infinity, SIZE, key=key, starts=8, steps=40).ratio > 1.2
    assert float(update.rate()) > 1.0
    with pytest.raises(UsageError, match="not below 1"):
        certify(broken)


def test_the_rate_of_an_input_falls_with_its_gates(updates):
    update = updates["neighbours"]
    half = tuple(i if i is None else (0.5 * i[0], i[1]) for i in update.injected)
    closed = eqx.tree_at(lambda u: u.injected, update, half, is_leaf=lambda x: x is None)
    assert float(closed.rate()) == pytest.approx(float(update.rate()) / 4, rel=1e-5)


def _by_hand(update: InfinityUpdate, h: np.ndarray) -> np.ndarray:
    """One loop of a core with neighbours in float64, from the formula."""
    gamma = float(np.float32(update.gamma))
    padded = np.pad(h, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    near = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    y = np.concatenate([h, np.maximum.reduce([h, *near])], axis=-1)
    for layer, injected in zip(update.layers, update.injected, strict=True):
        if isinstance(layer, L1CappedMix):
            gates, added = (0.0 if x is None else np.asarray(x, np.float64) for x in injected)
            y = gates * (y @ np.asarray(layer.weight, np.float64).T) + added
            a, b = np.split(y, 2, axis=-1)
            y = np.concatenate([np.maximum(a, b), np.minimum(a, b)], axis=-1)
    return gamma * y + np.asarray(update.offset, np.float64)


def test_one_loop_by_hand(updates, rng):
    h = rng.normal(size=(*CELLS, CHANNELS))
    for name in ("neighbours", "neighbours, loud", "rest, loud"):
        result = eqx.filter_jit(updates[name])(jnp.asarray(h, jnp.float32))
        expected = _by_hand(updates[name], h)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@eqx.filter_jit
def _solve(update, h, depth):
    return iterate(update, h, SampledDepth(depth, 300))


@pytest.mark.parametrize("name", ["neighbours", "neighbours, loud", "rest, loud"])
def test_true_error_never_exceeds_the_bound(name, updates, rng):
    update = updates[name]
    fixed = np.zeros((*CELLS, CHANNELS))
    for _ in range(400):
        fixed = _by_hand(update, fixed)
    bounds = []
    for depth in (1, 3, 10, 50, 300):
        h = jnp.asarray(rng.normal(size=fixed.shape) * 100.0, jnp.float32)
        solution = _solve(update, h, jnp.asarray(depth))
        error = np.max(np.abs(np.asarray(solution.value, np.float64) - fixed))
        bounds.append(float(solution.stats.error_bound))
        assert error <= bounds[-1], depth
    assert 0.0 < bounds[-1] <= 1e-3 * np.max(np.abs(fixed))  # useful, and never exactly 0
    assert bounds[0] > 10 * bounds[2] > 10 * bounds[3]


@pytest.mark.parametrize("name", ["neighbours", "attention"])
def test_two_starts_approach_at_the_rate(name, updates, rng):
    update = updates[name]
    h = jnp.asarray(rng.normal(size=(2, *CELLS, CHANNELS)) * 10.0, jnp.float32)
    start = float(norms.infinity(h[0] - h[1]))
    for depth in (1, 5, 20, 60):
        a, b = (_solve(update, x, jnp.asarray(depth)).value for x in h)
        slack = 2.0 * float(update.rounding(a)) / (1.0 - GAMMA)
        assert float(norms.infinity(a - b)) <= GAMMA**depth * start * (1 + 1e-4) + slack


@pytest.mark.parametrize("mixing", ["neighbours", "directed", "attention"])
def test_a_core_at_rest_moves_only_where_neighbours_differ(mixing, rng):
    core = _core(mixing, rest=True)
    assert all(layer.bias is None for layer in core.block.layers if isinstance(layer, L1CappedMix))
    alike = jnp.broadcast_to(jnp.asarray(rng.normal(size=2), jnp.float32), (*CELLS, 2))
    update = _bind(core, alike)
    np.testing.assert_allclose(update(update.start()), update.start(), atol=1e-5)
    other = _bind(core, alike.at[0, 0].add(2.0))
    moved = np.abs(np.asarray(other(other.start()) - other.start())).max(axis=-1) > 1e-4
    assert moved.any()
    if mixing == "neighbours":
        assert not moved[1, 1:].any() and not moved[0, 2]


def _flooding(walls: np.ndarray, start: tuple[int, int], gamma: float) -> InfinityUpdate:
    """The update that floods a maze, put together by hand: the gate is shut at walls."""
    mix = L1CappedMix(2, 1, 1, key=jax.random.key(0))
    mix = eqx.tree_at(lambda m: m.weight, mix, jnp.asarray([[0.0, 1.0]]))
    opened = jnp.asarray(~walls, jnp.float32)[..., None]
    target = jnp.zeros((*walls.shape, 1)).at[start].set(1.0)
    return InfinityUpdate(
        layers=(Beside(NeighbourExtremum()), mix),
        injected=(None, (opened, jnp.zeros_like(opened))),
        initial=target,
        offset=(1.0 - gamma) * target,
        gamma=gamma,
    )


def test_a_signal_crosses_a_maze_at_gamma_a_hop(rng):
    # What no contraction in the 2-norm can do: after d hops it is γ^d, in every branch.
    for _ in range(3):
        walls = rng.random((7, 8)) < 0.3
        walls[2, 3] = False
        distance = np.full(walls.shape, np.inf)
        distance[2, 3] = 0.0
        for _ in range(walls.size):  # Bellman–Ford
            padded = np.pad(distance, 1, constant_values=np.inf)
            near = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
            distance = np.minimum(distance, np.minimum.reduce(near) + 1.0)
            distance[walls] = np.inf
        update = _flooding(walls, (2, 3), 0.9)
        solution = _solve(update, update.initial, jnp.asarray(60))
        np.testing.assert_allclose(solution.value[..., 0], 0.9**distance, atol=1e-5)
        assert float(update.rate()) == pytest.approx(0.9, rel=1e-5)


def test_call_is_prelude_loop_readout(cores, grid):
    core = resolve(cores["neighbours"])
    solution = eqx.filter_jit(core)(grid, FixedDepth(3))
    convolution = core.prelude.convolution
    raw = np.asarray(grid) @ np.asarray(convolution.weight)[:, :, 0, 0].T
    raw = raw + np.asarray(convolution.bias).ravel()
    e = raw / (1.0 + np.exp(-raw))
    update = core.bind(jnp.asarray(e, jnp.float32))
    target = e @ np.asarray(core.block.target.weight).T + np.asarray(core.block.target.bias)
    np.testing.assert_allclose(update.initial, target, atol=1e-5)
    np.testing.assert_allclose(update.offset, (1.0 - GAMMA) * target, atol=1e-6)
    h = target.astype(np.float64)
    for _ in range(3):
        h = _by_hand(update, h)
    readout = core.readout
    joined = np.concatenate([h, e], axis=-1)
    hidden, output = (np.asarray(readout.hidden.weight), np.asarray(readout.output.weight))
    hidden = np.maximum(joined @ hidden.T + np.asarray(readout.hidden.bias), 0.0)
    expected = hidden @ output.T + np.asarray(readout.output.bias)
    np.testing.assert_allclose(solution.value, expected, atol=1e-5)
    assert solution.result == RESULTS.successful and int(solution.stats.loops) == 3


def test_one_core_serves_grids_of_any_size_and_is_the_same_resolved(cores, rng):
    call = eqx.filter_jit(lambda core, x: core(x, ResidualHalting(1e-3, 200)))
    x = jnp.asarray(rng.normal(size=(5, 4, 2)), jnp.float32)
    solution = call(cores["neighbours"], x)
    assert solution.value.shape == (5, 4, 1) and solution.result == RESULTS.successful
    np.testing.assert_allclose(
        solution.value, call(resolve(cores["neighbours"]), x).value, atol=1e-5
    )


def test_tokens_under_attention_have_no_order(rng):
    config = InfinityConfig(channels=4, inputs=3, meeting=Meeting.ATTENTION, dimensions=1, heads=2)
    core = eqx.filter_jit(lambda key: resolve(GridCore(2, 1, config, key=key)))(jax.random.key(1))
    x = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    order = rng.permutation(6)
    call = eqx.filter_jit(lambda x: core(x, FixedDepth(4)).value)
    np.testing.assert_allclose(call(x)[order], call(x[order]), atol=1e-5)
    moved = call(x.at[0].add(1.0)) - call(x)
    assert float(jnp.abs(moved[1:]).min()) > 0.0  # and every token hears of every other


def test_nan_input_is_reported(cores, grid):
    solution = eqx.filter_jit(cores["neighbours"])(grid.at[0, 0, 0].set(jnp.nan), FixedDepth(3))
    assert solution.result == RESULTS.nonfinite


def test_gradients_reach_every_weight(cores, grid):
    def loss(core):
        return jnp.sum(resolve(core)(grid, FixedDepth(3)).value ** 2)

    for name in ("neighbours", "attention"):
        gradient = eqx.filter_jit(eqx.filter_grad(loss))(cores[name])
        for leaf in jax.tree.leaves(gradient):
            assert np.all(np.isfinite(leaf)) and float(jnp.abs(leaf).max()) > 0.0


@pytest.mark.parametrize("shape", [(3, 2), (3, 3, 1), (2, 3, 3, 2)], ids=str)
def test_a_grid_of_another_kind_is_refused(shape, cores, assert_helpful):
    with pytest.raises(UsageError, match="shape") as raised:
        cores["neighbours"](jnp.ones(shape), FixedDepth(1))
    assert_helpful(raised)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 3},
        {"channels": 0},
        {"mixes": -1},
        {"heads": 5},
        {"prelude_window": 2},
        {"readout_window": 0},
        {"gamma": 1.0},
        {"gamma": 0.0},
        {"gamma": 1 - 1e-9},
        {"gamma": float("nan")},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(change, assert_helpful):
    with pytest.raises(UsageError) as raised:
        InfinityConfig(**change)
    assert_helpful(raised)
