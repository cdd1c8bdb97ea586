"""An unshared stack: as deep and wide as the looped core, with different blocks."""

import dataclasses

import jax
from jaxtyping import PRNGKeyArray

from loopwm.core import CoreConfig
from loopwm.models.conventional.base import OnePassModel
from loopwm.models.conventional.stack import StackCore, check_no_gate
from loopwm.models.latent import check_positive_sizes, scaled
from loopwm.models.observations import View
from loopwm.models.world_model import Sizes, WorldModelBuilder


@dataclasses.dataclass(frozen=True)
class UnsharedConfig(WorldModelBuilder):
    """Sizes of an unshared stack: those of the looped world model, a block for each loop.

    The control for weight sharing: the looped model's depth and width with `blocks` times the
    parameters in the blocks. Its FLOPs are the looped model's and, for each block but the first,
    what that block makes of the input e (injection and retention), which a shared block makes once.
    """

    latent: int = 48
    """Size of the latent state z."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    blocks: int = 4
    """n: different blocks, each applied once a transition."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""
    core: CoreConfig = CoreConfig()
    """Kind and width of the blocks, as the looped core has them."""

    def __post_init__(self):
        """Refuses sizes below 1, and a halting gate."""
        check_positive_sizes(self, "latent", "hidden", "blocks")
        check_no_gate(self.core)

    @property
    def width(self) -> int:
        """Width of the blocks, which sets the size of the model."""
        return self.core.width

    def at_width(self, width: int) -> "UnsharedConfig":
        """The same proportions with blocks of that width."""
        return dataclasses.replace(
            self,
            latent=scaled(self.latent, width, self.width),
            hidden=scaled(self.hidden, width, self.width),
            core=dataclasses.replace(self.core, width=width),
        )

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> OnePassModel:
        """Builds the model for an environment's sizes."""
        key_core, key_rest = jax.random.split(key)
        core = StackCore(self.latent, sizes.action, self.core, self.blocks, key=key_core)
        return OnePassModel(
            sizes,
            core.bound,
            core,
            present=self.latent,
            hidden=self.hidden,
            view=self.view,
            key=key_rest,
        )
