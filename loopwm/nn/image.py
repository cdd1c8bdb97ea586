"""Small convolutional networks between images and vectors, outside the loop."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

SMALLEST = 4
"""Images are halved until a further step would make a side shorter than this."""


def halvings(shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Sizes (height, width) of an image of shape (height, width, channels), halved, rounded up.

    The first is that of the image; the last has a side of fewer than 2 · `SMALLEST` pixels.
    """
    sizes = [shape[:2]]
    while min(sizes[-1]) >= 2 * SMALLEST:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def _widths(count: int, hidden: int) -> list[int]:
    """Channels after each halving: a quarter of `hidden` first, then doubled up to it."""
    return [min(hidden, max(4, hidden // 4) * 2**i) for i in range(count)]


class ImageEncoder(eqx.Module):
    """Convolutions of stride 2 with silu, then a linear map of all that is left."""

    convolutions: tuple[eqx.nn.Conv2d, ...]
    readout: eqx.nn.Linear
    shape: tuple[int, int, int] = eqx.field(static=True)
    """Height, width and channels of the image."""

    def __init__(
        self, shape: tuple[int, int, int], outputs: int, *, hidden: int, key: PRNGKeyArray
    ):
        """Builds the network.

        Args:
            shape: height, width and channels of the image.
            outputs: size of the result.
            hidden: channels of the last convolution, at least 1.
            key: PRNG key.
        """
        sizes = halvings(shape)
        widths = [shape[2], *_widths(len(sizes) - 1, hidden)]
        *keys, key_readout = jax.random.split(key, len(sizes))
        self.convolutions = tuple(
            eqx.nn.Conv2d(before, after, 3, stride=2, padding=1, key=k)
            for (before, after), k in zip(itertools.pairwise(widths), keys, strict=True)
        )
        rest = sizes[-1][0] * sizes[-1][1] * widths[-1]
        self.readout = eqx.nn.Linear(rest, outputs, key=key_readout)
        self.shape = shape

    def __call__(self, x: Float[Array, " pixels"]) -> Float[Array, " outputs"]:
        """Maps a flat image x of shape (height · width · channels,) to shape (outputs,)."""
        image = jnp.moveaxis(x.reshape(self.shape), -1, 0)
        for convolution in self.convolutions:
            image = jax.nn.silu(convolution(image))
        return self.readout(image.ravel())


class ImageDecoder(eqx.Module):
    """A linear map to a small image, doubled and convolved until it has its size."""

    readin: eqx.nn.Linear
    convolutions: tuple[eqx.nn.Conv2d, ...]
    shape: tuple[int, int, int] = eqx.field(static=True)
    """Height, width and channels of the image."""

    def __init__(self, inputs: int, shape: tuple[int, int, int], *, hidden: int, key: PRNGKeyArray):
        """Builds the network.

        Args:
            inputs: size of x.
            shape: height, width and channels of the image.
            hidden: channels of the smallest image, at least 1.
            key: PRNG key.
        """
        sizes = halvings(shape)
        widths = [shape[2], *_widths(len(sizes) - 1, hidden)][::-1]
        *keys, key_readin = jax.random.split(key, len(sizes))
        self.convolutions = tuple(
            eqx.nn.Conv2d(before, after, 3, padding=1, key=k)
            for (before, after), k in zip(itertools.pairwise(widths), keys, strict=True)
        )
        rest = sizes[-1][0] * sizes[-1][1] * widths[0]
        self.readin = eqx.nn.Linear(inputs, rest, key=key_readin)
        self.shape = shape

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " pixels"]:
        """Maps x of shape (inputs,) to a flat image of shape (height · width · channels,)."""
        *larger, smallest = halvings(self.shape)
        image = self.readin(x).reshape(-1, *smallest)
        for convolution, (height, width) in zip(self.convolutions, larger[::-1], strict=True):
            doubled = jnp.repeat(jnp.repeat(jax.nn.silu(image), 2, axis=1), 2, axis=2)
            image = convolution(doubled[:, :height, :width])
        return jnp.moveaxis(image, 0, -1).ravel()
