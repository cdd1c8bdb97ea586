"""Layers of other libraries with weights, and the largest of their Jacobians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def filled_module(build, key):
    """A module with Gaussian weights of variance 1/4, without compiling its initialisers."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(fill, eqx.filter_eval_shape(build, key))


@eqx.filter_jit
def jacobians_at(module, states):
    return jax.vmap(jax.jacobian(module))(states)


def largest_jacobian(module, shape, rng, points=12, scale=3.0):
    """Largest 2-norm of dense Jacobians at points near the origin and far from it."""
    sizes = 10.0 ** rng.uniform(-scale, 1, size=(points, *(1 for _ in shape)))
    states = jnp.asarray(sizes * rng.normal(size=(points, *shape)), jnp.float32)
    jacobians = jacobians_at(module, states)
    width = int(np.prod(shape))
    matrices = np.asarray(jacobians, np.float64).reshape(points, -1, width)
    return float(np.linalg.norm(matrices, 2, axis=(1, 2)).max())


def conv(axes, key, **options):
    options = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, **options}
    return filled_module(lambda key: eqx.nn.Conv(axes, key=key, **options), key)
