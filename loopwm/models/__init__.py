"""World models behind one seam, and the heads that go with them."""

from loopwm.models.grid import GridModelConfig as GridModelConfig
from loopwm.models.grid import GridWorldModel as GridWorldModel
from loopwm.models.latent import AbstractLoopedModel as AbstractLoopedModel
from loopwm.models.looped import LoopedConfig as LoopedConfig
from loopwm.models.looped import LoopedWorldModel as LoopedWorldModel
from loopwm.models.networks import Networks as Networks
from loopwm.models.networks import build_networks as build_networks
from loopwm.models.networks import count_parameters as count_parameters
from loopwm.models.networks import resolve_networks as resolve_networks
from loopwm.models.normalizer import Normalizer as Normalizer
from loopwm.models.observations import View as View
from loopwm.models.policy import AbstractPolicy as AbstractPolicy
from loopwm.models.policy import CategoricalPolicy as CategoricalPolicy
from loopwm.models.policy import GaussianPolicy as GaussianPolicy
from loopwm.models.registry import WORLD_MODELS as WORLD_MODELS
from loopwm.models.token import TokenModelConfig as TokenModelConfig
from loopwm.models.token import TokenWorldModel as TokenWorldModel
from loopwm.models.value import Critic as Critic
from loopwm.models.value import ValueConfig as ValueConfig
from loopwm.models.value import ValueSupport as ValueSupport
from loopwm.models.world_model import AbstractWorldModel as AbstractWorldModel
from loopwm.models.world_model import EarlyExits as EarlyExits
from loopwm.models.world_model import EveryDepth as EveryDepth
from loopwm.models.world_model import Outcome as Outcome
from loopwm.models.world_model import Sizes as Sizes
from loopwm.models.world_model import WorldModelBuilder as WorldModelBuilder
