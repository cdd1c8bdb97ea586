"""What cores for grids share: the prelude and the read-out of every cell, both unconstrained."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.errors import UsageError


def each_cell(
    function: Callable[[Array], Array], x: Float[Array, "*cells inputs"]
) -> Float[Array, "*cells outputs"]:
    """Applies a function of (inputs,) to every cell of x; to x itself if it is a vector."""
    return jnp.vectorize(function, signature="(i)->(o)")(x)


class CellPrelude(eqx.Module):
    """e = silu(W * x + b) with a convolution over the grid, computed once."""

    convolution: eqx.nn.Conv

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dimensions: int,
        window: int,
        periodic: bool,
        key: PRNGKeyArray,
    ):
        """Builds the prelude.

        Args:
            inputs: channels of the input grid.
            outputs: channels of e.
            dimensions: axes of the grid.
            window: cells of the kernel along each axis, odd; 1 looks at each cell alone.
            periodic: whether opposite edges of the grid meet; zeros lie beyond them otherwise.
            key: PRNG key.
        """
        self.convolution = eqx.nn.Conv(
            dimensions,
            inputs,
            outputs,
            window,
            padding="SAME",
            padding_mode="CIRCULAR" if periodic else "ZEROS",
            key=key,
        )

    def __call__(self, x: Float[Array, "*cells inputs"]) -> Float[Array, "*cells outputs"]:
        """e of shape (*cells, outputs) from x of shape (*cells, inputs).

        Raises:
            UsageError: the grid has another number of axes or channels.
        """
        axes, inputs = self.convolution.num_spatial_dims, self.convolution.in_channels
        if x.ndim != axes + 1 or x.shape[-1] != inputs:
            raise UsageError(
                f"The grid has shape {x.shape}; give {axes} axes of cells and a last one of "
                f"{inputs} channels, and vmap over a batch."
            )
        return jax.nn.silu(jnp.moveaxis(self.convolution(jnp.moveaxis(x, -1, 0)), 0, -1))


class CellReadout(eqx.Module):
    """W₂ relu(W₁ * [h, e] + b₁) + b₂ at every cell, where W₁ may look at neighbours too."""

    hidden: eqx.nn.Linear | eqx.nn.Conv
    output: eqx.nn.Linear

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        *,
        dimensions: int = 1,
        window: int = 1,
        periodic: bool = False,
        key: PRNGKeyArray,
    ):
        """Builds the read-out.

        Args:
            inputs: channels of h and e together.
            width: hidden width.
            outputs: channels of the result.
            dimensions: axes of the grid; any number of them if `window` is 1.
            window: cells of W₁ along each axis, odd; 1 looks at each cell alone.
            periodic: whether opposite edges of the grid meet; zeros lie beyond them otherwise.
            key: PRNG key.
        """
        key_hidden, key_output = jax.random.split(key)
        if window == 1:
            self.hidden = eqx.nn.Linear(inputs, width, key=key_hidden)
        else:
            self.hidden = eqx.nn.Conv(
                dimensions,
                inputs,
                width,
                window,
                padding="SAME",
                padding_mode="CIRCULAR" if periodic else "ZEROS",
                key=key_hidden,
            )
        self.output = eqx.nn.Linear(width, outputs, key=key_output)

    def __call__(
        self, h: Float[Array, "*cells channels"], e: Float[Array, "*cells inputs"]
    ) -> Float[Array, "*cells outputs"]:
        """Results of shape (*cells, outputs) from h and e."""
        joined = jnp.concatenate([h, e], axis=-1)
        if isinstance(self.hidden, eqx.nn.Linear):
            return each_cell(lambda x: self.output(jax.nn.relu(self.hidden(x))), joined)
        hidden = jnp.moveaxis(self.hidden(jnp.moveaxis(joined, -1, 0)), 0, -1)
        return each_cell(self.output, jax.nn.relu(hidden))
