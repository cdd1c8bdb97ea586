"""The inner loop: update, depth rules, iteration, core."""

from loopwm.core.depth import AbstractDepthRule as AbstractDepthRule
from loopwm.core.depth import CertifiedHalting as CertifiedHalting
from loopwm.core.depth import FixedDepth as FixedDepth
from loopwm.core.depth import ResidualHalting as ResidualHalting
from loopwm.core.depth import SampledDepth as SampledDepth
from loopwm.core.depth import poisson_depth as poisson_depth
from loopwm.core.iterate import AbstractUpdate as AbstractUpdate
from loopwm.core.iterate import iterate as iterate
from loopwm.core.looped import BoundUpdate as BoundUpdate
from loopwm.core.looped import CoreConfig as CoreConfig
from loopwm.core.looped import LoopedCore as LoopedCore
from loopwm.core.looped import Prelude as Prelude
from loopwm.core.solution import RESULTS as RESULTS
from loopwm.core.solution import LoopStats as LoopStats
from loopwm.core.solution import Solution as Solution
