"""The looped model's block, applied once."""

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
class SinglePassConfig(WorldModelBuilder):
    """Sizes of a single pass: those of the looped world model, T = 1 in training and after.

    The control for looping: the same number of parameters, and what its loops cost saved.
    """

    latent: int = 48
    """Size of the latent state z."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""
    core: CoreConfig = CoreConfig()
    """Kind and width of the block, as the looped core has it."""

    def __post_init__(self):
        """Refuses sizes below 1, and a halting gate."""
        check_positive_sizes(self, "latent", "hidden")
        check_no_gate(self.core)

    @property
    def width(self) -> int:
        """Width of the block, which sets the size of the model."""
        return self.core.width

    def at_width(self, width: int) -> "SinglePassConfig":
        """The same proportions with a block of that width."""
        return dataclasses.replace(
            self,
            latent=scaled(self.latent, width, self.width),
            hidden=scaled(self.hidden, width, self.width),
            core=dataclasses.replace(self.core, width=width),
        )

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> OnePassModel:
        """Builds the model for an environment's sizes."""
        key_core, key_rest = jax.random.split(key)
        core = StackCore(self.latent, sizes.action, self.core, 1, key=key_core)
        return OnePassModel(
            sizes,
            core.bound,
            core,
            present=self.latent,
            hidden=self.hidden,
            view=self.view,
            key=key_rest,
        )
