"""Plain multilayer perceptron for everything outside the loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class LayerNormLinear(eqx.Module):
    """silu(LayerNorm(W x + b))."""

    linear: eqx.nn.Linear
    norm: eqx.nn.LayerNorm

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        """Args: size of x, size of the result, PRNG key."""
        self.linear = eqx.nn.Linear(inputs, outputs, key=key)
        self.norm = eqx.nn.LayerNorm(outputs)

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """Maps x of shape (inputs,) to shape (outputs,)."""
        return jax.nn.silu(self.norm(self.linear(x)))


class MLP(eqx.Module):
    """Hidden layers silu(LayerNorm(Wx + b)), then a linear read-out."""

    hidden: tuple[LayerNormLinear, ...]
    readout: eqx.nn.Linear

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 1,
        zero_readout: bool = False,
        key: PRNGKeyArray,
    ):
        """Builds the network.

        Args:
            inputs: size of x.
            outputs: size of the result.
            width: size of each hidden layer.
            depth: number of hidden layers.
            zero_readout: start the read-out at zero, so that the first output is 0.
            key: PRNG key.
        """
        *keys, key_out = jax.random.split(key, depth + 1)
        sizes = [inputs] + [width] * depth
        self.hidden = tuple(
            LayerNormLinear(sizes[i], sizes[i + 1], key=k) for i, k in enumerate(keys)
        )
        readout = eqx.nn.Linear(sizes[-1], outputs, key=key_out)
        if zero_readout:
            readout = jax.tree.map(jnp.zeros_like, readout)
        self.readout = readout

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """Maps x of shape (inputs,) to shape (outputs,)."""
        for layer in self.hidden:
            x = layer(x)
        return self.readout(x)
