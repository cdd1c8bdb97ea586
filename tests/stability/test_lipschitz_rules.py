"""Rules for foreign layers: against dense Jacobians, an adversary, and scans of every slope."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import UpperBound, attack, lipschitz, norms
from loopwm.stability.lipschitz import _SLOPES

RELU = jax.nn.relu


def _filled(build, key):
    """A module with Gaussian weights of variance 1/4, without compiling its initialisers."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(fill, eqx.filter_eval_shape(build, key))


@eqx.filter_jit
def _jacobians(module, states):
    return jax.vmap(jax.jacobian(module))(states)


def _largest_jacobian(module, shape, rng, points=12, scale=3.0):
    """Largest 2-norm of dense Jacobians at points near the origin and far from it."""
    sizes = 10.0 ** rng.uniform(-scale, 1, size=(points, *(1 for _ in shape)))
    states = jnp.asarray(sizes * rng.normal(size=(points, *shape)), jnp.float32)
    jacobians = _jacobians(module, states)
    width = int(np.prod(shape))
    matrices = np.asarray(jacobians, np.float64).reshape(points, -1, width)
    return float(np.linalg.norm(matrices, 2, axis=(1, 2)).max())


# Scalar activations -------------------------------------------------------------------------


PARTIALS = (
    functools.partial(jax.nn.gelu, approximate=False),
    functools.partial(jax.nn.gelu, approximate=True),
    functools.partial(jax.nn.leaky_relu, negative_slope=-2.5),
    functools.partial(jax.nn.leaky_relu, negative_slope=0.5),
    functools.partial(jax.nn.elu, alpha=3.0),
    functools.partial(jax.nn.elu, alpha=0.2),
    functools.partial(jax.nn.celu, alpha=2.0),
    functools.partial(jax.nn.silu),
)


@pytest.fixture(scope="module")
def steepest():
    """Largest |f'| of each activation on a dense scan, far values included, in float64."""
    near = np.concatenate([np.linspace(-12, 12, 120_001), np.linspace(-1e-6, 1e-6, 101)])
    points = np.concatenate([near, [-1e4, -100.0, 100.0, 1e4]])
    functions = (*_SLOPES, *PARTIALS)
    with jax.enable_x64(True):
        scan = jax.jit(lambda x: [jax.vmap(jax.grad(f))(x) for f in functions])
        slopes = [np.abs(np.asarray(s)) for s in scan(jnp.asarray(points, jnp.float64))]
    assert np.all(np.isfinite(slopes))
    return {f: s.max() for f, s in zip(functions, slopes, strict=True)}


@pytest.mark.parametrize("function", _SLOPES, ids=lambda f: getattr(f, "__name__", "activation"))
def test_slopes_are_above_a_dense_scan_and_close(function, steepest):
    assert steepest[function] <= float(lipschitz(function)) <= steepest[function] * 1.0005


@pytest.mark.parametrize("function", PARTIALS, ids=str)
def test_partial_activations(function, steepest):
    bound = float(lipschitz(function))
    assert steepest[function] * (1 - 1e-9) <= bound <= steepest[function] * 1.0005


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(jax.nn.celu, alpha=-1.0),
        functools.partial(jax.nn.elu, alpha=np.nan),
        functools.partial(jax.nn.leaky_relu, negative_slope=np.inf),
        functools.partial(jax.nn.softplus, x=1.0),
        functools.partial(jnp.multiply, 3.0),
        functools.partial(functools.partial(jnp.multiply, 3.0), 1.0),
    ],
    ids=str,
)
def test_partials_without_a_bound_are_refused(function, assert_helpful):
    with pytest.raises(UsageError) as raised:
        lipschitz(function)
    assert_helpful(raised)


def test_functions_that_return_their_argument_are_found_by_tracing():
    assert float(lipschitz(lambda x: x)) == 1.0
    assert float(lipschitz(lambda x: jnp.asarray(x))) == 1.0
    assert float(lipschitz(jax.nn.identity)) == 1.0


def _fails(x):
    raise ValueError("not today")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 2 * x,
        lambda x: -x,
        lambda x: jnp.zeros(3),
        lambda x: np.float32(1.0),
        lambda x: np.ones(3, np.float32),
        lambda x: (x, x),
        lambda x: x.T @ x,
        lambda x: x if x.ndim == 0 else 3 * x,
        lambda x: x if x.ndim < 2 else x.T @ x,
        _fails,
        jnp.exp,
        "relu",
        eqx.nn.Linear,
    ],
    ids=str,
)
def test_other_functions_are_refused(function, assert_helpful):
    with pytest.raises(UsageError, match="No Lipschitz bound") as raised:
        lipschitz(function)
    assert_helpful(raised)


@pytest.mark.parametrize("function", [jnp.ravel, jnp.transpose, jax.nn.softmax])
def test_functions_of_an_array(function, rng):
    bound = float(lipschitz(eqx.nn.Lambda(function)))
    worst = _largest_jacobian(function, (2, 3), rng)
    assert worst <= bound * (1 + 1e-5)
    if function is jax.nn.softmax:  # (1/2, 1/2, 0): eigenvalue 1/2 along (1, -1, 0)
        peak = jax.jacobian(function)(jnp.asarray([20.0, 20.0, 0.0]))
        assert np.linalg.norm(peak, 2) == pytest.approx(bound, rel=1e-5)


def test_prelu_takes_its_steepest_side():
    assert float(lipschitz(eqx.nn.PReLU(0.25))) == 1.0
    assert float(lipschitz(eqx.nn.PReLU(jnp.asarray([0.5, -3.0])))) == 3.0


def test_prelu_with_nan_is_refused(assert_helpful):
    with pytest.raises(UsageError) as raised:
        lipschitz(eqx.nn.PReLU(jnp.nan))
    assert_helpful(raised)


# Convolutions -------------------------------------------------------------------------------


def _conv(axes, key, **options):
    options = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, **options}
    return _filled(lambda key: eqx.nn.Conv(axes, key=key, **options), key)


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
    layer = _conv(axes, key, **options)
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
        groups = _conv(1, jax.random.key(0), groups=2, padding=1, padding_mode=mode)
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
        lipschitz(_conv(1, key, **options))
    assert_helpful(raised)


def test_circular_padding_beyond_the_window_really_repeats_outputs(key):
    # What the refusal above is for: the bound of the window alone would be too small.
    layer = _conv(1, key, in_channels=1, out_channels=1, padding=4, padding_mode="CIRCULAR")
    usual = _conv(1, key, in_channels=1, out_channels=1, padding=1, padding_mode="CIRCULAR")
    assert _dense_norm(layer, (4,)) > 1.2 * float(lipschitz(usual))


@pytest.mark.parametrize("build", ["conv", "linear"])
def test_stacks_of_layers_are_refused(build, key, assert_helpful):
    layer = _conv(1, key) if build == "conv" else eqx.nn.Linear(3, 3, key=key)
    stack = jax.tree.map(lambda w: jnp.stack([w, w]), layer)
    with pytest.raises(UsageError, match="stack") as raised:
        lipschitz(stack)
    assert_helpful(raised)


# Pooling and normalisation ------------------------------------------------------------------

POOLS = [(2, 2), (2, 3), (3, 1), (3, 2)]


@pytest.mark.parametrize(("window", "stride"), POOLS)
@pytest.mark.parametrize("kind", [eqx.nn.AvgPool1d, eqx.nn.MaxPool1d])
def test_pooling_of_a_line(kind, window, stride, rng):
    layer = kind(window, stride, padding=1)
    bound = float(lipschitz(layer))
    if kind is eqx.nn.AvgPool1d:
        worst = _largest_jacobian(layer, (1, 24), rng, points=1)
        assert worst <= bound * (1 + 1e-6) and bound <= worst * 1.05 and bound <= 1.0 + 1e-9
    else:
        # One cell above all of the others: as many outputs follow it as windows hold it.
        peaks = 10.0 * np.eye(24, dtype=np.float32)[:, None, :]
        jacobians = np.asarray(_jacobians(layer, jnp.asarray(peaks)))
        worst = np.linalg.norm(jacobians.reshape(24, -1, 24), 2, axis=(1, 2)).max()
        assert worst == pytest.approx(bound, rel=1e-6)
        assert (bound == 1.0) == (stride >= window)


@pytest.mark.parametrize("kind", [eqx.nn.AvgPool2d, eqx.nn.MaxPool2d])
def test_pooling_of_a_plane(kind, rng):
    layer = kind((3, 2), (2, 2), padding=((1, 0), (0, 1)), use_ceil=True)
    bound = float(lipschitz(layer))
    assert _largest_jacobian(layer, (2, 6, 5), rng) <= bound * (1 + 1e-6)
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
    assert _largest_jacobian(layer, (6,), rng, points=40, scale=4.0) <= bound * (1 + 1e-5)
    at_zero = np.linalg.norm(np.asarray(_jacobians(layer, jnp.zeros((40, 6))))[0], 2)
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
    worst = _largest_jacobian(layer, (4,), rng, points=2)
    assert float(lipschitz(layer)) == pytest.approx(worst, rel=1e-5)
    plane = eqx.nn.WeightNorm(_conv(2, key, padding="SAME"))
    assert float(lipschitz(plane)) == pytest.approx(float(lipschitz(plane.layer)), rel=1e-5)


def test_weight_norm_of_a_zero_row_is_refused(key, assert_helpful):
    layer = eqx.nn.WeightNorm(eqx.nn.Linear(4, 3, key=key))
    layer = eqx.tree_at(lambda x: x.layer.weight, layer, jnp.zeros((3, 4)))
    with pytest.raises(UsageError, match="direction") as raised:
        lipschitz(layer)
    assert_helpful(raised)


# Containers ---------------------------------------------------------------------------------


class _Scale(eqx.Module):
    """An activation of one's own, with a weight."""

    factor: jax.Array

    def __call__(self, x):
        return self.factor * jnp.tanh(x)

    def lipschitz(self):
        return UpperBound(abs(float(self.factor)))


MLPS = {
    "default": {},
    "gelu": {"activation": jax.nn.gelu, "final_activation": jnp.tanh},
    "prelu": {"activation": eqx.nn.PReLU(-2.0), "final_activation": eqx.nn.PReLU(0.1)},
    "own": {"activation": _Scale(jnp.asarray(1.5)), "final_activation": _Scale(jnp.asarray(0.5))},
    "leaky": {"activation": functools.partial(jax.nn.leaky_relu, negative_slope=2.0)},
    "identity": {"activation": lambda x: x},
    "scanned": {"scan": True, "activation": eqx.nn.PReLU(1.5)},
}


def _mlp(name, key):
    return _filled(lambda key: eqx.nn.MLP(5, 5, 6, 3, key=key, **MLPS[name]), key)


@pytest.mark.parametrize("name", MLPS)
def test_mlp_against_jacobians(name, key, rng):
    module = _mlp(name, key)
    bound = float(lipschitz(module))
    assert _largest_jacobian(module, (5,), rng) <= bound * (1 + 1e-5)


def test_mlp_by_hand(key):
    module = eqx.nn.MLP(2, 2, 2, 1, activation=eqx.nn.PReLU(), key=key)
    weights = (jnp.diag(jnp.asarray([3.0, 1.0])), jnp.diag(jnp.asarray([1.0, 0.5])))
    module = eqx.tree_at(lambda m: tuple(layer.weight for layer in m.layers), module, weights)
    assert float(lipschitz(module)) == pytest.approx(3.0)
    # One neuron of one layer is steeper than all others: its slope counts.
    steep = eqx.tree_at(lambda m: m.activation.negative_slope, module, jnp.asarray([[0.25, -4.0]]))
    assert float(lipschitz(steep)) == pytest.approx(12.0)


def test_mlp_without_hidden_layers_leaves_its_final_activation_out(key, rng):
    module = eqx.nn.MLP(3, 3, 4, 0, final_activation=jax.nn.sigmoid, key=key)
    assert float(lipschitz(module)) == pytest.approx(
        _largest_jacobian(module, (3,), rng, 2), rel=1e-5
    )


def test_scanned_mlp_equals_the_plain_one(key):
    plain = _filled(lambda key: eqx.nn.MLP(3, 3, 4, 3, key=key), key)
    scanned = _filled(lambda key: eqx.nn.MLP(3, 3, 4, 3, scan=True, key=key), key)
    hidden = jax.tree.map(lambda *x: jnp.stack(x), *plain.layers[1:-1])
    layers = (plain.layers[0], hidden, plain.layers[-1])
    scanned = eqx.tree_at(lambda m: m.layers, scanned, layers)
    assert float(lipschitz(scanned)) == pytest.approx(float(lipschitz(plain)), rel=1e-12)


def test_mlp_of_scalars(key):
    options = {"final_activation": jnp.tanh}
    module = _filled(lambda key: eqx.nn.MLP("scalar", "scalar", 4, 1, key=key, **options), key)
    slopes = _jacobians(module, jnp.linspace(-3.0, 3.0, 50))
    assert float(np.max(np.abs(slopes))) <= float(lipschitz(module))


def _sequential(key):
    keys = jax.random.split(key, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x),
            _conv(1, keys[0], padding="SAME"),
            eqx.nn.Lambda(jax.nn.silu),
            eqx.nn.MaxPool1d(2, 2),
            eqx.nn.Identity(),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.WeightNorm(eqx.nn.Linear(8, 16, key=keys[1])),
            eqx.nn.Dropout(0.5, inference=True),
            eqx.nn.Lambda(eqx.nn.PReLU(2.0)),
        ]
    )


def test_sequential_is_the_product_of_its_layers(key, rng):
    module = _sequential(key)
    expected = np.prod([float(lipschitz(layer)) for layer in module.layers])
    assert float(lipschitz(module)) == pytest.approx(expected)
    assert _largest_jacobian(module, (2, 8), rng) <= expected * (1 + 1e-5)


@pytest.mark.parametrize("name", ["sequential", "gelu", "prelu"])
def test_adversary_stays_below_the_bound_of_a_composite(name, key):
    if name == "sequential":
        module, width = _sequential(key), 16

        def call(x):  # equinox's convolution takes weights and inputs of one type alone
            arrays, rest = eqx.partition(module, eqx.is_inexact_array)
            arrays = jax.tree.map(lambda w: w.astype(x.dtype), arrays)
            return eqx.combine(arrays, rest)(x.reshape(2, 8))
    else:
        module, width = _mlp(name, key), 5
        call = module
    found = attack(call, norms.two, width, key=key, starts=8, steps=40)
    assert 0.02 * float(lipschitz(module)) < found.ratio <= float(lipschitz(module)) * (1 + 1e-6)


# What has no rule ---------------------------------------------------------------------------


class _Doubled(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2.0 * super().__call__(x, key=key)


class _Renamed(eqx.nn.Linear):
    pass


class _Known(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2.0 * super().__call__(x, key=key)

    def lipschitz(self):
        return UpperBound(42.0)


class _Boastful(eqx.Module):
    def lipschitz(self):
        return 0.5


class _Unknown(eqx.Module):
    def __call__(self, x):
        return x


def test_subclasses_with_another_call_are_refused(key, assert_helpful):
    with pytest.raises(UsageError, match="_Doubled") as raised:
        lipschitz(_Doubled(3, 3, key=key))
    assert_helpful(raised)
    renamed = _Renamed(3, 3, key=key)
    assert float(lipschitz(renamed)) == pytest.approx(np.linalg.norm(renamed.weight, 2), rel=1e-6)


def test_a_method_of_the_module_goes_first(key):
    assert float(lipschitz(_Known(3, 3, key=key))) == 42.0


def test_a_number_is_no_bound(assert_helpful):
    with pytest.raises(UsageError, match="UpperBound") as raised:
        lipschitz(_Boastful())
    assert_helpful(raised)


def test_active_dropout_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="dropout") as raised:
        lipschitz(eqx.nn.Dropout(0.5))
    assert_helpful(raised)
    assert float(lipschitz(eqx.nn.Dropout(0.0))) == 1.0


@pytest.mark.parametrize(
    "build",
    [
        lambda key: _Unknown(),
        lambda key: eqx.nn.MultiheadAttention(2, 4, key=key),
        lambda key: eqx.nn.ConvTranspose1d(2, 2, 3, key=key),
        lambda key: eqx.nn.AdaptiveAvgPool1d(2),
        lambda key: eqx.nn.Sequential([eqx.nn.Identity(), _Unknown()]),
        lambda key: eqx.nn.MLP(2, 2, 2, 1, activation=jnp.exp, key=key),
        lambda key: eqx.nn.BatchNorm(3, "batch", mode="ema"),
        lambda key: eqx.nn.SpectralNorm(eqx.nn.Linear(3, 3, key=key), "weight", key=key),
    ],
)
def test_unknown_layers_are_refused_with_a_remedy(build, key, assert_helpful):
    with pytest.raises(UsageError, match="No Lipschitz bound") as raised:
        lipschitz(build(key))
    assert_helpful(raised)


def test_a_rule_of_ones_own_joins_in():
    class Halved(eqx.Module):
        def __call__(self, x):
            return 0.5 * x

    lipschitz.register(Halved, lambda module: UpperBound(0.5))
    assert float(lipschitz(eqx.nn.Sequential([Halved(), Halved()]))) == pytest.approx(0.25)
