"""The looped world model whose latent state is a row of tokens."""

import dataclasses

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from loopwm.core import (
    FULL,
    ActionMap,
    FlatGridCore,
    GridConfig,
    InfinityConfig,
    Layout,
    LoopGradient,
    TokenConfig,
    check_gradient,
)
from loopwm.models.latent import AbstractLoopedModel, CellSoftNorm, check_positive_sizes
from loopwm.models.observations import View, build_decoder, build_encoder
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.nn import MLP, ImageDecoder, ImageEncoder

TOKEN_CORES: dict[str, type[GridConfig]] = {
    "attention": TokenConfig,
    "infinity": InfinityConfig,
}
"""Cores of a token model by name."""


@dataclasses.dataclass(frozen=True)
class TokenModelConfig(WorldModelBuilder):
    """Sizes of a looped world model on tokens."""

    tokens: int = 6
    """Number of tokens of the latent state z."""
    width: int = 8
    """Channels of z at every token."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    depth: int = 4
    """T: loops per imagined transition."""
    gradient: LoopGradient = FULL
    """How the loops are differentiated in training: full, truncated or implicit."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""
    core: GridConfig = dataclasses.field(default=TokenConfig(), metadata={"registry": TOKEN_CORES})
    """The looped core, for one axis of cells: the tokens."""

    def __post_init__(self):
        """Refuses sizes below 1."""
        check_positive_sizes(self, "tokens", "width", "hidden", "depth")
        check_gradient(self.gradient, self.core)

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> "TokenWorldModel":
        """Builds the model for an environment's sizes."""
        return TokenWorldModel(sizes, self, key=key)


class TokenWorldModel(AbstractLoopedModel):
    r"""A looped world model whose latent state is N tokens of d channels, flattened.

    Each token lies in the ball of radius √d, so z in that of radius √latent. The action reaches
    every token by a learned map of its own, which also tells the tokens apart.
    """

    encoder: MLP | ImageEncoder
    core: FlatGridCore
    decoder: MLP | ImageDecoder
    head: MLP
    bound: CellSoftNorm
    gradient: LoopGradient
    depth: int = eqx.field(static=True)
    latent: int = eqx.field(static=True)

    def __init__(self, sizes: Sizes, config: TokenModelConfig, *, key: PRNGKeyArray):
        """Builds the model.

        Args:
            sizes: sizes of observation and action vectors.
            config: sizes of the model.
            key: PRNG key.

        Raises:
            UsageError: the core is not one for a row of tokens.
        """
        key_encoder, key_core, key_decoder, key_head = jax.random.split(key, 4)
        layout = Layout((config.tokens,), config.width)
        latent, hidden, view = layout.size, config.hidden, config.view
        self.encoder = build_encoder(sizes, latent, view, hidden=hidden, key=key_encoder)
        self.core = FlatGridCore(layout, sizes.action, config.core, ActionMap.LEARNED, key=key_core)
        self.decoder = build_decoder(latent, sizes, view, hidden=hidden, key=key_decoder)
        self.head = MLP(2 * latent + sizes.action, 2, width=hidden, key=key_head)
        self.bound = CellSoftNorm(layout)
        self.depth = config.depth
        self.gradient = config.gradient
        self.latent = latent
