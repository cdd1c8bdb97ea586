"""The world models that ours is compared with, behind the same seam."""

from loopwm.models.conventional.base import AbstractOnePassModel as AbstractOnePassModel
from loopwm.models.conventional.base import OnePassModel as OnePassModel
from loopwm.models.conventional.base import check_depth as check_depth
from loopwm.models.conventional.ensemble import EnsembleConfig as EnsembleConfig
from loopwm.models.conventional.ensemble import EnsembleWorldModel as EnsembleWorldModel
from loopwm.models.conventional.gru import GRUConfig as GRUConfig
from loopwm.models.conventional.latent_mlp import LatentMLPConfig as LatentMLPConfig
from loopwm.models.conventional.rssm import RSSMConfig as RSSMConfig
from loopwm.models.conventional.rssm import RSSMWorldModel as RSSMWorldModel
from loopwm.models.conventional.single_pass import SinglePassConfig as SinglePassConfig
from loopwm.models.conventional.transformer import TransformerConfig as TransformerConfig
from loopwm.models.conventional.unshared import UnsharedConfig as UnsharedConfig
from loopwm.models.conventional.width_matched import WidthMatchedConfig as WidthMatchedConfig
