"""One pass of a block so wide that it costs what the loops of the looped block cost."""

import dataclasses

import jax
from jaxtyping import PRNGKeyArray

from loopwm.core import CoreConfig
from loopwm.core.looped import residual_hidden
from loopwm.models.conventional.base import OnePassModel
from loopwm.models.conventional.stack import StackCore, check_no_gate
from loopwm.models.latent import check_positive_sizes, scaled
from loopwm.models.observations import View
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.stability import Mode


@dataclasses.dataclass(frozen=True)
class WidthMatchedConfig(WorldModelBuilder):
    """Sizes of the looped model that is matched in FLOPs by one wide pass.

    The control for spending FLOPs on loops instead of on width.
    """

    latent: int = 48
    """Size of the latent state z."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    loops: int = 4
    """T: loops of the looped model."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""
    core: CoreConfig = CoreConfig()
    """Kind and width of the looped model's block; the width that is built follows from it."""

    def __post_init__(self):
        """Refuses sizes below 1, and a halting gate."""
        check_positive_sizes(self, "latent", "hidden", "loops")
        check_no_gate(self.core)

    @property
    def width(self) -> int:
        """Width of the looped model's block, which sets the size of this model."""
        return self.core.width

    def at_width(self, width: int) -> "WidthMatchedConfig":
        """The same proportions for a looped model of that width."""
        return dataclasses.replace(
            self,
            latent=scaled(self.latent, width, self.width),
            hidden=scaled(self.hidden, width, self.width),
            core=dataclasses.replace(self.core, width=width),
        )

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> OnePassModel:
        """Builds the model for an environment's sizes."""
        key_core, key_rest = jax.random.split(key)
        width = matched_width(self.latent, sizes.action, self.core, self.loops)
        wide = dataclasses.replace(self.core, width=width)
        core = StackCore(self.latent, sizes.action, wide, 1, key=key_core)
        return OnePassModel(
            sizes,
            core.bound,
            core,
            present=self.latent,
            hidden=self.hidden,
            view=self.view,
            key=key_rest,
        )


def core_flops(latent: int, action: int, config: CoreConfig, loops: int) -> int:
    r"""FLOPs of the matrix products of a looped core in T loops, each addition counted.

    $$F(w, T) = 2\,\big[(d + a)\,w + w^2 + n\,(1 + 2 T)\,w k + 2 d\,w\big]$$

    for n layers of k hidden units on states of size w: prelude; retention, or in mode linear the
    input's own term; each layer's injection once, and its two matrices in every loop; coda. k = w
    in mode contractive, whatever the kind of layer, and two thirds of it in the others.

    Args:
        latent: d, size of z.
        action: a, size of u.
        config: the core's; w is its width.
        loops: T.

    Returns:
        F, an exact number of matrix products alone.
    """
    w = config.width
    hidden = w if config.mode is Mode.CONTRACTIVE else residual_hidden(w)
    layers = config.layers * (1 + 2 * loops) * w * hidden
    return 2 * ((latent + action) * w + w * w + layers + 2 * w * latent)


def matched_width(latent: int, action: int, config: CoreConfig, loops: int) -> int:
    r"""The width w' at which one pass costs what T loops cost at width w, to the nearest.

    $w' = \arg\min_v |F(v, 1) - F(w, T)|$ with F from `core_flops`; F grows with v, so w' is
    found by bisection.

    Args:
        latent: size of z.
        action: size of u.
        config: the looped core's, with its width w.
        loops: T.

    Returns:
        w', at least w.
    """
    wanted = core_flops(latent, action, config, loops)

    def cost(width: int) -> int:
        return core_flops(latent, action, dataclasses.replace(config, width=width), 1)

    # T times the width costs at least T times the FLOPs.
    low, high = config.width, config.width * loops + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= wanted else (low, middle)
    return low if wanted - cost(low) <= cost(high) - wanted else high
