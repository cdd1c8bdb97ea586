"""Bounds of foreign convolutions, pooling and normalisation: against dense Jacobians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_layers import conv, jacobians_at, largest_jacobian

from loopwm.errors import UsageError
from loopwm.stability import lipschitz

RELU = jax.nn.relu


CONVOLUTIONS = {
    "valid": (1, {}),
    "same": (1, {"padding": "SAME"}),
    "full": (1, {"padding": 2}),
    "beyond full": (1, {"padding": 5}),
    "even": (1, {"kernel_size": 4, "padding": "SAME_LOWER"}),
    "dilated": (1, {"dilation": 2, "padding": "SAME"}),
    "strided": (1, {"stride": 2, "padding": 1}),
    "strided and dilated": (1, {"stride": 2, "dilation": 3, "padding": "SAME"}),
    "grouped": (1, {"in_channels": 4, "out_channels": 2, "groups": 2, "padding": "SAME"}),
    "grouped, strided": (1, {"in_channels": 4, "out_channels": 4, "groups": 2, "stride": 2}),
    "circular": (1, {"padding": "SAME", "padding_mode": "CIRCULAR"}),
    "circular, strided": (1, {"padding": "SAME", "padding_mode": "CIRCULAR", "stride": 2}),
    "circular, dilated": (1, {"padding": 2, "padding_mode": "CIRCULAR", "dilation": 2}),
    "plane": (2, {"padding": "SAME"}),
    "plane, strided": (2, {"padding": 1, "stride": (2, 1), "kernel_size": (3, 2)}),
    "plane, circular": (2, {"padding": 1, "padding_mode": "CIRCULAR"}),
}


@eqx.filter_jit
def _batched(module, states):
    return jax.vmap(module)(states)


def _dense_norm(layer, grid):
    """Norm of a linear layer's matrix, built column by column without the bias."""
    layer = eqx.tree_at(lambda x: x.bias, layer, jnp.zeros_like(layer.bias))
    shape = (layer.in_channels, *grid)
    columns = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    matrix = np.asarray(_batched(layer, columns), np.float64)
    return float(np.linalg.norm(matrix.reshape(len(columns), -1), 2))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_any_size(name, key):
    axes, options = CONVOLUTIONS[name]
    layer = conv(axes, key, **options)
    bound = float(lipschitz(layer))
    worst = _dense_norm(layer, (18,) if axes == 1 else (7, 6))
    assert worst <= bound * (1 + 1e-6)
    assert bound <= worst * (1.08 if axes == 1 else 1.3)  # and not a loose one


def test_convolution_of_a_known_kernel():
    layer = eqx.nn.Conv1d(1, 1, 3, padding="SAME", key=jax.random.key(0))
    layer = eqx.tree_at(lambda x: x.weight, layer, jnp.asarray([[[1.0, 2.0, 1.0]]]))
    assert 4.0 <= float(lipschitz(layer)) <= 4.0 * 1.005
    # Stride 2 keeps residues (1, 1) and (2): the symbol at 0 is (2, 2).
    strided = eqx.nn.Conv1d(1, 1, 3, stride=2, padding=1, key=jax.random.key(0))
    strided = eqx.tree_at(lambda x: x.weight, strided, layer.weight)
    assert 8**0.5 <= float(lipschitz(strided)) <= 8**0.5 * 1.005
    # Two groups with one kernel: each channel has it to itself, so nothing adds up.
    twice = jnp.concatenate([layer.weight, layer.weight])
    for mode in ("ZEROS", "CIRCULAR"):
        groups = conv(1, jax.random.key(0), groups=2, padding=1, padding_mode=mode)
        groups = eqx.tree_at(lambda x: x.weight, groups, twice)
        assert 4.0 <= float(lipschitz(groups)) <= 4.0 * 1.005


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME", "padding_mode": "REFLECT"},
        {"padding": "SAME", "padding_mode": "REPLICATE"},
        {"padding": 2, "padding_mode": "CIRCULAR"},
    ],
)
def test_padding_that_repeats_cells_is_refused(options, key, assert_helpful):
    with pytest.raises(UsageError, match="padding") as raised:
        lipschitz(conv(1, key, **options))
    assert_helpful(raised)


def test_circular_padding_beyond_the_window_really_repeats_outputs(key):
    # What the refusal above is for: the bound of the window alone would be too small.
    layer = conv(1, key, in_channels=1, out_channels=1, padding=4, padding_mode="CIRCULAR")
    usual = conv(1, key, in_channels=1, out_channels=1, padding=1, padding_mode="CIRCULAR")
    assert _dense_norm(layer, (4,)) > 1.2 * float(lipschitz(usual))


@pytest.mark.parametrize("build", ["conv", "linear"])
def test_stacks_of_layers_are_refused(build, key, assert_helpful):
    layer = conv(1, key) if build == "conv" else eqx.nn.Linear(3, 3, key=key)
    stack = jax.tree.map(lambda w: jnp.stack([w, w]), layer)
    with pytest.raises(UsageError, match="stack") as raised:
        lipschitz(stack)
    assert_helpful(raised)


POOLS = [(2, 2), (2, 3), (3, 1), (3, 2)]


@pytest.mark.parametrize(("window", "stride"), POOLS)
@pytest.mark.parametrize("kind", [eqx.nn.AvgPool1d, eqx.nn.MaxPool1d])
def test_pooling_of_a_line(kind, window, stride, rng):
    layer = kind(window, stride, padding=1)
    bound = float(lipschitz(layer))
    if kind is eqx.nn.AvgPool1d:
        worst = largest_jacobian(layer, (1, 24), rng, points=1)
        assert worst <= bound * (1 + 1e-6) and bound <= worst * 1.05 and bound <= 1.0 + 1e-9
    else:
        # One cell above all of the others: as many outputs follow it as windows hold it.
        peaks = 10.0 * np.eye(24, dtype=np.float32)[:, None, :]
        jacobians = np.asarray(jacobians_at(layer, jnp.asarray(peaks)))
        worst = np.linalg.norm(jacobians.reshape(24, -1, 24), 2, axis=(1, 2)).max()
        assert worst == pytest.approx(bound, rel=1e-6)
        assert (bound == 1.0) == (stride >= window)


@pytest.mark.parametrize("kind", [eqx.nn.AvgPool2d, eqx.nn.MaxPool2d])
def test_pooling_of_a_plane(kind, rng):
    layer = kind((3, 2), (2, 2), padding=((1, 0), (0, 1)), use_ceil=True)
    bound = float(lipschitz(layer))
    assert largest_jacobian(layer, (2, 6, 5), rng) <= bound * (1 + 1e-6)
    expected = np.sqrt(5 / 9) * np.sqrt(2 / 4) if kind is eqx.nn.AvgPool2d else np.sqrt(2.0)
    assert bound == pytest.approx(expected)


def test_pooling_by_another_operation_is_refused(assert_helpful):
    summed = eqx.tree_at(lambda p: p.operation, eqx.nn.MaxPool1d(2, 2), jax.lax.add)
    for layer in (summed, eqx.nn.Pool(0, jax.lax.add, 1, 2, 2)):
        with pytest.raises(UsageError, match="Pool") as raised:
            lipschitz(layer)
        assert_helpful(raised)


@pytest.mark.parametrize(
    "layer",
    [
        eqx.nn.LayerNorm(6),
        eqx.nn.LayerNorm(6, eps=1e-2, use_weight=False),
        eqx.nn.RMSNorm(6, eps=1e-3),
        eqx.nn.GroupNorm(2, 6, eps=1e-2),
        eqx.tree_at(lambda n: n.weight, eqx.nn.LayerNorm(6), jnp.linspace(-2.0, 1.0, 6)),
    ],
    ids=lambda n: type(n).__name__,
)
def test_normalisation_is_bounded_and_attained_near_the_origin(layer, rng):
    bound = float(lipschitz(layer))
    scale = 1.0 if layer.weight is None else float(jnp.max(jnp.abs(layer.weight)))
    assert bound == pytest.approx(scale / np.sqrt(layer.eps), rel=1e-6)
    assert largest_jacobian(layer, (6,), rng, points=40, scale=4.0) <= bound * (1 + 1e-5)
    at_zero = np.linalg.norm(np.asarray(jacobians_at(layer, jnp.zeros((40, 6))))[0], 2)
    assert 0.6 * bound <= at_zero <= bound * (1 + 1e-6)


def test_normalisation_without_eps_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="eps") as raised:
        lipschitz(eqx.nn.LayerNorm(4, eps=0.0))
    assert_helpful(raised)


@pytest.mark.parametrize("axis", [0, -1, None])
def test_weight_norm_bounds_the_weight_that_is_used(axis, key, rng):
    layer = eqx.nn.WeightNorm(eqx.nn.Linear(4, 3, key=key), axis=axis)
    layer = eqx.tree_at(lambda x: x.layer.weight, layer, 7.0 * layer.layer.weight)
    layer = eqx.tree_at(lambda x: x.g, layer, 2.0 * layer.g)
    worst = largest_jacobian(layer, (4,), rng, points=2)
    assert float(lipschitz(layer)) == pytest.approx(worst, rel=1e-5)
    plane = eqx.nn.WeightNorm(conv(2, key, padding="SAME"))
    assert float(lipschitz(plane)) == pytest.approx(float(lipschitz(plane.layer)), rel=1e-5)


def test_weight_norm_of_a_zero_row_is_refused(key, assert_helpful):
    layer = eqx.nn.WeightNorm(eqx.nn.Linear(4, 3, key=key))
    layer = eqx.tree_at(lambda x: x.layer.weight, layer, jnp.zeros((3, 4)))
    with pytest.raises(UsageError, match="direction") as raised:
        lipschitz(layer)
    assert_helpful(raised)
