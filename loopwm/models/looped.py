"""The looped world model."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from loopwm.core import FULL, CoreConfig, LoopedCore, LoopGradient, check_gradient
from loopwm.models.latent import AbstractLoopedModel, check_positive_sizes, scaled
from loopwm.models.observations import View, build_decoder, build_encoder
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.nn import MLP, ImageDecoder, ImageEncoder, SoftNorm


@dataclasses.dataclass(frozen=True)
class LoopedConfig(WorldModelBuilder):
    """Sizes of a looped world model."""

    latent: int = 48
    """Size of the latent state z."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    depth: int = 4
    """T: loops per imagined transition."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""
    core: CoreConfig = CoreConfig()
    """The looped core."""
    gradient: LoopGradient = FULL
    """How the loops are differentiated in training: full, truncated or implicit."""

    def __post_init__(self):
        """Refuses sizes below 1, and an implicit gradient of a core that does not contract."""
        check_positive_sizes(self, "latent", "hidden", "depth")
        check_gradient(self.gradient, self.core)

    @property
    def width(self) -> int:
        """Width of the core, which sets the size of the model."""
        return self.core.width

    def at_width(self, width: int) -> "LoopedConfig":
        """The same proportions with a core of that width."""
        return dataclasses.replace(
            self,
            latent=scaled(self.latent, width, self.width),
            hidden=scaled(self.hidden, width, self.width),
            core=dataclasses.replace(self.core, width=width),
        )

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> "LoopedWorldModel":
        """Builds the model for an environment's sizes."""
        return LoopedWorldModel(sizes, self, key=key)


class LoopedWorldModel(AbstractLoopedModel):
    """A looped world model whose latent state is a vector in the ball of radius R = √latent."""

    encoder: MLP | ImageEncoder
    core: LoopedCore
    decoder: MLP | ImageDecoder
    head: MLP
    bound: SoftNorm
    gradient: LoopGradient
    depth: int = eqx.field(static=True)
    latent: int = eqx.field(static=True)

    def __init__(self, sizes: Sizes, config: LoopedConfig, *, key: PRNGKeyArray):
        """Builds the model.

        Args:
            sizes: sizes of observation and action vectors.
            config: sizes of the model.
            key: PRNG key.
        """
        key_encoder, key_core, key_decoder, key_head = jax.random.split(key, 4)
        latent, hidden, view = config.latent, config.hidden, config.view
        self.encoder = build_encoder(sizes, latent, view, hidden=hidden, key=key_encoder)
        self.core = LoopedCore(latent, sizes.action, config.core, key=key_core)
        self.decoder = build_decoder(latent, sizes, view, hidden=hidden, key=key_decoder)
        self.head = MLP(2 * latent + sizes.action, 2, width=hidden, key=key_head)
        self.bound = SoftNorm(float(np.sqrt(latent)))
        self.gradient = config.gradient
        self.depth = config.depth
        self.latent = latent
