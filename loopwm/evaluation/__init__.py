"""Evaluation: episodes, depth, reports, videos."""

from loopwm.evaluation.depth_analysis import DepthAnalysis as DepthAnalysis
from loopwm.evaluation.depth_analysis import DepthConfig as DepthConfig
from loopwm.evaluation.depth_analysis import HaltingKind as HaltingKind
from loopwm.evaluation.depth_analysis import analyse_depth as analyse_depth
from loopwm.evaluation.depth_analysis import halt as halt
from loopwm.evaluation.depth_analysis import measure_depth as measure_depth
from loopwm.evaluation.depth_report import depth_section as depth_section
from loopwm.evaluation.depth_report import write_depth_figures as write_depth_figures
from loopwm.evaluation.episodes import run_episodes as run_episodes
from loopwm.evaluation.guarantees import certificate_of as certificate_of
from loopwm.evaluation.guarantees import depth_promise as depth_promise
from loopwm.evaluation.guarantees import statements as statements
from loopwm.evaluation.imagination import STEPS as STEPS
from loopwm.evaluation.imagination import Imagination as Imagination
from loopwm.evaluation.imagination import Watched as Watched
from loopwm.evaluation.imagination import imagine as imagine
from loopwm.evaluation.imagination import watch as watch
from loopwm.evaluation.imagination_report import pictures as pictures
from loopwm.evaluation.imagination_report import watched_sections as watched_sections
from loopwm.evaluation.report import write_report as write_report
from loopwm.evaluation.study import Study as Study
from loopwm.evaluation.study_config import StudyConfig as StudyConfig
from loopwm.evaluation.transitions import RealTransitions as RealTransitions
from loopwm.evaluation.transitions import encode_transitions as encode_transitions
from loopwm.evaluation.transitions import play_transitions as play_transitions
from loopwm.evaluation.video import record_episode as record_episode
