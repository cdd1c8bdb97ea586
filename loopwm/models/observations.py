"""Encoders and decoders between flat observations and vectors: by the kind of observation."""

import enum

from jaxtyping import PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.models.world_model import Sizes
from loopwm.nn import MLP, ImageDecoder, ImageEncoder


class View(enum.StrEnum):
    """How a model looks at a flat observation."""

    AUTO = "auto"
    """As an image where the environment gives images, as a vector otherwise."""
    VECTOR = "vector"
    """As a vector without order."""
    IMAGE = "image"
    """As an image of (height, width, channels)."""


def build_encoder(
    sizes: Sizes, outputs: int, view: View, *, hidden: int, key: PRNGKeyArray
) -> MLP | ImageEncoder:
    """The encoder from o of shape (observation,) to shape (outputs,).

    Args:
        sizes: sizes of observation and action vectors.
        outputs: size of the result.
        view: how to look at observations.
        hidden: width of the network, or its most channels.
        key: PRNG key.

    Raises:
        UsageError: observations are to be looked at as images, and are none.
    """
    shape = _image_shape(sizes, view)
    if shape is None:
        return MLP(sizes.observation, outputs, width=hidden, key=key)
    return ImageEncoder(shape, outputs, hidden=hidden, key=key)


def build_decoder(
    inputs: int, sizes: Sizes, view: View, *, hidden: int, key: PRNGKeyArray
) -> MLP | ImageDecoder:
    """The decoder from shape (inputs,) to o of shape (observation,); see `build_encoder`."""
    shape = _image_shape(sizes, view)
    if shape is None:
        return MLP(inputs, sizes.observation, width=hidden, key=key)
    return ImageDecoder(inputs, shape, hidden=hidden, key=key)


def _image_shape(sizes: Sizes, view: View) -> tuple[int, int, int] | None:
    """Height, width and channels where the observation is to be taken for an image."""
    view = member(View, view, "model.view")
    if view is View.VECTOR or (view is View.AUTO and not sizes.image):
        return None
    if sizes.shape is None or len(sizes.shape) != 3:
        raise UsageError(
            f"Observations have the shape {sizes.shape or (sizes.observation,)}, which is no image "
            "of (height, width, channels); use model.view=vector or auto."
        )
    height, width, channels = sizes.shape
    return height, width, channels
