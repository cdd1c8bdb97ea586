"""The families that are compared, and the shapes that the search may choose among."""

import dataclasses
from collections.abc import Iterable

from loopwm.core import CoreConfig
from loopwm.errors import UsageError
from loopwm.models import (
    EnsembleConfig,
    GRUConfig,
    LatentMLPConfig,
    LoopedConfig,
    RSSMConfig,
    SinglePassConfig,
    Sizes,
    TransformerConfig,
    UnsharedConfig,
    WidthMatchedConfig,
    at_size,
)
from loopwm.models.world_model import WorldModelBuilder


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of world model in some shapes; its size is set by its width."""

    words: str
    """What it is, as reports say it."""
    shapes: tuple[WorldModelBuilder, ...]
    """Two shapes, the default first: other depths, layers or proportions at the same size."""

    def build(self, shape: int, sizes: Sizes, parameters: int) -> WorldModelBuilder:
        """The configuration of a shape that is nearest to a number of parameters.

        Raises:
            UsageError: there is none of that size.
        """
        return at_size(self.shapes[shape], sizes, parameters)


def build_blocks(family: str, blocks: int, sizes: Sizes, parameters: int) -> WorldModelBuilder:
    """A looped model of so many loops, or an unshared stack of so many blocks, of one width.

    The width is that at which the looped model has the wanted number of parameters.

    Args:
        family: looped or unshared.
        blocks: loops or different blocks, at least 1.
        sizes: sizes of observation and action vectors.
        parameters: parameters of the looped model.

    Raises:
        UsageError: the looped model cannot be built at that size.
    """
    looped = FAMILIES[OURS].build(0, sizes, parameters)
    assert isinstance(looped, LoopedConfig)
    if family == OURS:
        return dataclasses.replace(looped, depth=blocks)
    assert family == STACK
    return UnsharedConfig(
        latent=looped.latent, hidden=looped.hidden, blocks=blocks, core=looped.core
    )


OURS = "looped"
"""The family that all others are compared with."""
STACK = "unshared"
"""The family whose blocks a recurrence is counted in."""

FAMILIES: dict[str, Family] = {
    "looped": Family("looped world model", (LoopedConfig(depth=4), LoopedConfig(depth=8))),
    "latent_mlp": Family(
        "latent MLP (TD-MPC2 style)", (LatentMLPConfig(layers=2), LatentMLPConfig(layers=3))
    ),
    "gru": Family(
        "GRU (World Models style)", (GRUConfig(), GRUConfig(latent=64, hidden=64, width=32))
    ),
    "rssm": Family(
        "RSSM (DreamerV3 style)", (RSSMConfig(), RSSMConfig(groups=4, width=48, hidden=40))
    ),
    "transformer": Family(
        "causal transformer", (TransformerConfig(layers=2), TransformerConfig(layers=1))
    ),
    "ensemble": Family(
        "probabilistic ensemble (PETS style)", (EnsembleConfig(layers=2), EnsembleConfig(layers=1))
    ),
    "unshared": Family(
        "unshared stack of the same blocks", (UnsharedConfig(blocks=4), UnsharedConfig(blocks=2))
    ),
    "single_pass": Family(
        "single pass of the same block",
        (SinglePassConfig(), SinglePassConfig(core=CoreConfig(layers=4))),
    ),
    "width_matched": Family(
        "one wide pass at equal FLOPs", (WidthMatchedConfig(loops=4), WidthMatchedConfig(loops=8))
    ),
}


def check_families(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        UsageError: one of them is no family.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in FAMILIES:
            raise UsageError(f"There is no family '{name}'; give some of {', '.join(FAMILIES)}.")
    return chosen
