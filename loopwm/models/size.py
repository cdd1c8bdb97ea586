"""World models of a wanted size, by one dial."""

import functools
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax

from loopwm.errors import UsageError
from loopwm.models.networks import count_parameters
from loopwm.models.world_model import Sizes, WorldModelBuilder

_WIDEST = 2**14


@runtime_checkable
class Scalable(Protocol):
    """A configuration of a world model whose size is set by a width."""

    @property
    def width(self) -> int:
        """The width that it has."""
        ...

    def at_width(self, width: int) -> WorldModelBuilder:
        """The same proportions at another width, at least 1; wider has no fewer parameters."""
        ...


def parameters_of(builder: WorldModelBuilder, sizes: Sizes) -> int:
    """Number of trainable scalars of the world model that a configuration builds.

    Nothing is initialised: shapes are enough.

    Args:
        builder: the configuration.
        sizes: sizes of observation and action vectors.
    """
    return count_parameters(shapes_of(builder, sizes))


def shapes_of(builder: WorldModelBuilder, sizes: Sizes) -> object:
    """The world model that a configuration builds, with shapes in place of arrays."""
    return eqx.filter_eval_shape(lambda key: builder.build(sizes, key=key), jax.random.key(0))


def at_size(builder: WorldModelBuilder, sizes: Sizes, parameters: int) -> WorldModelBuilder:
    """The configuration whose world model is nearest to a number of parameters.

    Bisection over the width, since the number grows with it.

    Args:
        builder: kind and proportions of the model.
        sizes: sizes of observation and action vectors.
        parameters: wanted number of trainable scalars of encoder, dynamics, decoder and head.

    Returns:
        The configuration at the width whose number is nearest, the narrower one of two.

    Raises:
        UsageError: the model has no width, or there are fewer parameters than its narrowest has,
            or more than its widest.
    """
    if not isinstance(builder, Scalable):
        raise UsageError(
            f"A {type(builder).__name__} has no single width to change; set its sizes one by one."
        )

    @functools.cache
    def count(width: int) -> int:
        return parameters_of(builder.at_width(width), sizes)

    low, high = 1, builder.width
    least = count(low)
    if parameters < least:
        raise UsageError(
            f"{parameters} parameters are fewer than the {least} of the narrowest "
            f"{type(builder).__name__} for this environment; give at least {least}."
        )
    while count(high) < parameters:
        if high >= _WIDEST:
            raise UsageError(
                f"{parameters} parameters need a {type(builder).__name__} wider than {high}; "
                f"give at most {count(high)}."
            )
        low, high = high, min(2 * high, _WIDEST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    nearest = low if parameters - count(low) <= count(high) - parameters else high
    return builder.at_width(nearest)
