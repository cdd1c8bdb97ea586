"""Comparing world models: cells, measures, statistics, report. See docs/compare.md."""

from loopwm.evaluation.compare.analysis import Analysis as Analysis
from loopwm.evaluation.compare.cells import Cell as Cell
from loopwm.evaluation.compare.cells import Record as Record
from loopwm.evaluation.compare.cells import Status as Status
from loopwm.evaluation.compare.families import FAMILIES as FAMILIES
from loopwm.evaluation.compare.families import OURS as OURS
from loopwm.evaluation.compare.families import Family as Family
from loopwm.evaluation.compare.fronts import Point as Point
from loopwm.evaluation.compare.fronts import Ratio as Ratio
from loopwm.evaluation.compare.fronts import iso_ratio as iso_ratio
from loopwm.evaluation.compare.protocol import ControlProtocol as ControlProtocol
from loopwm.evaluation.compare.protocol import DynamicsProtocol as DynamicsProtocol
from loopwm.evaluation.compare.protocol import Search as Search
from loopwm.evaluation.compare.recurrence import Worth as Worth
from loopwm.evaluation.compare.recurrence import fit_worth as fit_worth
from loopwm.evaluation.compare.statistics import Interval as Interval
from loopwm.evaluation.compare.statistics import iqm_interval as iqm_interval
from loopwm.evaluation.compare.suites import SUITES as SUITES
from loopwm.evaluation.compare.suites import Suite as Suite
from loopwm.evaluation.compare.tasks import TASKS as TASKS
