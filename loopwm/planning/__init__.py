"""Planners over one pure seam to the model."""

from loopwm.planning.categorical_cem import CategoricalCEM as CategoricalCEM
from loopwm.planning.categorical_cem import CategoricalCEMConfig as CategoricalCEMConfig
from loopwm.planning.coarse import CoarseConfig as CoarseConfig
from loopwm.planning.coarse import Effort as Effort
from loopwm.planning.coarse import Ranker as Ranker
from loopwm.planning.coarse import Ranking as Ranking
from loopwm.planning.coarse import Rescoring as Rescoring
from loopwm.planning.mppi import MPPI as MPPI
from loopwm.planning.mppi import MPPIConfig as MPPIConfig
from loopwm.planning.planner import AbstractPlanner as AbstractPlanner
from loopwm.planning.planner import Plan as Plan
from loopwm.planning.planner import PlannerBuilder as PlannerBuilder
from loopwm.planning.planner import PlanStats as PlanStats
from loopwm.planning.registry import PLANNERS as PLANNERS
from loopwm.planning.registry import PlanningConfig as PlanningConfig
from loopwm.planning.seam import AbstractPlanningModel as AbstractPlanningModel
from loopwm.planning.seam import Imagined as Imagined
from loopwm.planning.seam import NetworksModel as NetworksModel
from loopwm.planning.seam import Score as Score
from loopwm.planning.seam import Scoring as Scoring
from loopwm.planning.seam import propose_sequence as propose_sequence
from loopwm.planning.seam import score as score
