"""The Gymnasium side: codecs, making environments, stepping them; environments of known depth."""

from loopwm.envs import automaton_ring as automaton_ring
from loopwm.envs import dominoes as dominoes
from loopwm.envs import flood_maze as flood_maze
from loopwm.envs import nlink_pendulum as nlink_pendulum
from loopwm.envs import sliding_ice as sliding_ice
from loopwm.envs import thresholds as thresholds
from loopwm.envs.action_repeat import ActionRepeat as ActionRepeat
from loopwm.envs.action_repeat import RepeatedSource as RepeatedSource
from loopwm.envs.actions import AbstractActionCodec as AbstractActionCodec
from loopwm.envs.actions import action_codec as action_codec
from loopwm.envs.codec import AbstractObservationCodec as AbstractObservationCodec
from loopwm.envs.depth import DepthTransitions as DepthTransitions
from loopwm.envs.guard import GuardedEnv as GuardedEnv
from loopwm.envs.limits import time_limit as time_limit
from loopwm.envs.make import EnvSource as EnvSource
from loopwm.envs.make import env_id as env_id
from loopwm.envs.make import env_name as env_name
from loopwm.envs.make import is_known as is_known
from loopwm.envs.make import make as make
from loopwm.envs.make import recorded_name as recorded_name
from loopwm.envs.make import registered as registered
from loopwm.envs.make import remembered as remembered
from loopwm.envs.observations import observation_codec as observation_codec
from loopwm.envs.registration import register as _register
from loopwm.envs.spaces import Spaces as Spaces
from loopwm.envs.stepper import Transitions as Transitions
from loopwm.envs.stepper import VectorStepper as VectorStepper
from loopwm.envs.vector import VectorKind as VectorKind
from loopwm.envs.vector import make_vector as make_vector

_register()
