"""The looped world model whose latent state is a grid."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core import (
    FULL,
    ActionMap,
    ConvolutionConfig,
    FlatGridCore,
    GridConfig,
    InfinityConfig,
    Layout,
    LoopGradient,
    check_gradient,
)
from loopwm.core.cells import CellPrelude, each_cell
from loopwm.errors import UsageError
from loopwm.models.latent import AbstractLoopedModel, CellSoftNorm, check_positive_sizes
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.nn import MLP

GRID_CORES: dict[str, type[GridConfig]] = {
    "convolution": ConvolutionConfig,
    "infinity": InfinityConfig,
}
"""Cores of a grid model by name."""


@dataclasses.dataclass(frozen=True)
class GridModelConfig(WorldModelBuilder):
    """Sizes of a looped world model on a grid."""

    channels: int = 8
    """Channels of the latent state z at every cell."""
    hidden: int = 32
    """Width of encoder, decoder and outcome head."""
    window: int = 3
    """Cells of the encoder's kernel along each axis, odd; 1 looks at each cell alone."""
    depth: int = 4
    """T: loops per imagined transition."""
    gradient: LoopGradient = FULL
    """How the loops are differentiated in training: full, truncated or implicit."""
    actions: ActionMap = ActionMap.BROADCAST
    """How an action reaches the cells: broadcast, pointed or learned."""
    core: GridConfig = dataclasses.field(
        default=ConvolutionConfig(), metadata={"registry": GRID_CORES}
    )
    """The looped core; `core.dimensions` has to be the number of axes of the grid."""

    def __post_init__(self):
        """Refuses sizes that are not possible."""
        check_positive_sizes(self, "channels", "hidden", "window", "depth")
        check_gradient(self.gradient, self.core)
        if self.window % 2 == 0:
            raise UsageError(f"model.window is {self.window}; give an odd number of cells.")

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> "GridWorldModel":
        """Builds the model for an environment's sizes.

        Raises:
            UsageError: observations are no grid, or not one that the core can hold.
        """
        return GridWorldModel(sizes, self, key=key)


def grid_of(sizes: Sizes, dimensions: int) -> Layout:
    """Cells and channels of an observation: the last axis holds channels, if there is one left.

    Args:
        sizes: sizes of observation and action vectors.
        dimensions: axes of the grid.

    Raises:
        UsageError: the observation has another number of axes, or none at all.
    """
    shape: tuple[int, ...] = sizes.shape or ()
    if len(shape) not in (dimensions, dimensions + 1):
        given = f"the shape {shape}" if shape else "no such shape"
        raise UsageError(
            f"A grid model with model.core.dimensions={dimensions} needs observations with an axis "
            f"for each, and one more for channels, but the environment's have {given}; set "
            "model.core.dimensions to fit, or use model.name=looped."
        )
    cells, (channels, *_) = shape[:dimensions], (*shape[dimensions:], 1)
    return Layout(cells, channels)


class GridEncoder(eqx.Module):
    """A convolution and silu, then a linear map at every cell."""

    features: CellPrelude
    readout: eqx.nn.Linear
    observed: Layout = eqx.field(static=True)
    """The grid that an observation is."""

    def __call__(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """Maps o of shape (observation,) to shape (latent,)."""
        grid = observation.reshape(*self.observed.cells, -1)
        return each_cell(self.readout, self.features(grid)).ravel()


class GridDecoder(eqx.Module):
    """The same small network at every cell."""

    network: MLP
    layout: Layout = eqx.field(static=True)
    """The grid that z is."""

    def __call__(self, z: Float[Array, " latent"]) -> Float[Array, " observation"]:
        """Maps z of shape (latent,) to shape (observation,)."""
        return jax.vmap(self.network)(z.reshape(self.layout.count, -1)).ravel()


class GridHead(eqx.Module):
    r"""Reward and continuation of a transition on a grid.

    Every cell gives features of $[z_i, z'_i]$; a network reads their mean and maximum over cells,
    a few of them at each cell, and the action.
    """

    features: eqx.nn.Linear
    network: MLP
    layout: Layout = eqx.field(static=True)
    """The grid that z is."""
    local: int = eqx.field(static=True)
    """Features read at each cell."""

    def __init__(self, layout: Layout, action: int, *, hidden: int, key: PRNGKeyArray):
        """Args: the grid that z is, size of u, width, PRNG key."""
        key_features, key_network = jax.random.split(key)
        self.layout, self.local = layout, min(2, hidden)
        self.features = eqx.nn.Linear(2 * layout.channels, hidden, key=key_features)
        inputs = 2 * hidden + self.local * layout.count + action
        self.network = MLP(inputs, 2, width=hidden, key=key_network)

    def __call__(self, joined: Float[Array, " inputs"]) -> Float[Array, "2"]:
        """Reward and logit of the continuation from [z, u, z'], shape (2 · latent + action,)."""
        size, count = self.layout.size, self.layout.count
        z, u, following = joined[:size], joined[size:-size], joined[-size:]
        cells = jnp.concatenate([z.reshape(count, -1), following.reshape(count, -1)], axis=1)
        features = jax.nn.silu(jax.vmap(self.features)(cells))
        pooled = jnp.concatenate([jnp.mean(features, axis=0), jnp.max(features, axis=0)])
        here = features[:, : self.local].ravel()
        return self.network(jnp.concatenate([pooled, here, u]))


class GridWorldModel(AbstractLoopedModel):
    r"""A looped world model whose latent state is a grid of the observation's cells, flattened.

    Each cell's channels lie in the ball of radius √channels, so z in that of radius √latent.
    """

    encoder: GridEncoder
    core: FlatGridCore
    decoder: GridDecoder
    head: GridHead
    bound: CellSoftNorm
    gradient: LoopGradient
    depth: int = eqx.field(static=True)
    latent: int = eqx.field(static=True)

    def __init__(self, sizes: Sizes, config: GridModelConfig, *, key: PRNGKeyArray):
        """Builds the model.

        Args:
            sizes: sizes of observation and action vectors, with the shape of the observation.
            config: sizes of the model.
            key: PRNG key.

        Raises:
            UsageError: observations are no grid, or not one that the core can hold.
        """
        key_features, key_readout, key_core, key_decoder, key_head = jax.random.split(key, 5)
        observed = grid_of(sizes, config.core.dimensions)
        layout = Layout(observed.cells, config.channels)
        features = CellPrelude(
            observed.channels,
            config.hidden,
            dimensions=config.core.dimensions,
            window=config.window,
            periodic=config.core.periodic,
            key=key_features,
        )
        readout = eqx.nn.Linear(config.hidden, config.channels, key=key_readout)
        self.encoder = GridEncoder(features, readout, observed)
        self.core = FlatGridCore(layout, sizes.action, config.core, config.actions, key=key_core)
        network = MLP(config.channels, observed.channels, width=config.hidden, key=key_decoder)
        self.decoder = GridDecoder(network, layout)
        self.head = GridHead(layout, sizes.action, hidden=config.hidden, key=key_head)
        self.bound = CellSoftNorm(layout)
        self.depth = config.depth
        self.gradient = config.gradient
        self.latent = layout.size
