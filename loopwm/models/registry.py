"""World models by name; a further one is a file and a line here."""

from loopwm.models.conventional import (
    EnsembleConfig,
    GRUConfig,
    LatentMLPConfig,
    RSSMConfig,
    SinglePassConfig,
    TransformerConfig,
    UnsharedConfig,
    WidthMatchedConfig,
)
from loopwm.models.grid import GridModelConfig
from loopwm.models.looped import LoopedConfig
from loopwm.models.token import TokenModelConfig
from loopwm.models.world_model import WorldModelBuilder

WORLD_MODELS: dict[str, type[WorldModelBuilder]] = {
    "looped": LoopedConfig,
    "grid": GridModelConfig,
    "tokens": TokenModelConfig,
    "latent_mlp": LatentMLPConfig,
    "gru": GRUConfig,
    "rssm": RSSMConfig,
    "transformer": TransformerConfig,
    "ensemble": EnsembleConfig,
    "unshared": UnsharedConfig,
    "single_pass": SinglePassConfig,
    "width_matched": WidthMatchedConfig,
}
