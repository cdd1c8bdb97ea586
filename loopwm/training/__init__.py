"""Learning: replay, losses, learner, checkpoints, the training loop."""

from loopwm.training import checkpoint as checkpoint
from loopwm.training.clock import Clock as Clock
from loopwm.training.config import CollectionConfig as CollectionConfig
from loopwm.training.config import EvaluationConfig as EvaluationConfig
from loopwm.training.config import LearnerConfig as LearnerConfig
from loopwm.training.config import RunConfig as RunConfig
from loopwm.training.depth import DepthLaw as DepthLaw
from loopwm.training.depth import TrainingDepth as TrainingDepth
from loopwm.training.learner import LearnerState as LearnerState
from loopwm.training.learner import init_learner as init_learner
from loopwm.training.learner import update as update
from loopwm.training.losses import td_lambda as td_lambda
from loopwm.training.replay import Replay as Replay
from loopwm.training.replay import SequenceBatch as SequenceBatch
from loopwm.training.run_folder import RunFolder as RunFolder
from loopwm.training.telemetry import RunTelemetry as RunTelemetry
from loopwm.training.telemetry import Telemetry as Telemetry
from loopwm.training.trainer import Actor as Actor
from loopwm.training.trainer import Counters as Counters
from loopwm.training.trainer import EvaluationResult as EvaluationResult
from loopwm.training.trainer import EvaluationStopped as EvaluationStopped
from loopwm.training.trainer import Trainer as Trainer
