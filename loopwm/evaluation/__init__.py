"""Evaluation: episodes, reports, videos."""

from loopwm.evaluation.episodes import run_episodes as run_episodes
from loopwm.evaluation.guarantees import certificate_of as certificate_of
from loopwm.evaluation.guarantees import depth_promise as depth_promise
from loopwm.evaluation.guarantees import statements as statements
from loopwm.evaluation.report import write_report as write_report
from loopwm.evaluation.study import Study as Study
from loopwm.evaluation.study_config import StudyConfig as StudyConfig
from loopwm.evaluation.video import record_episode as record_episode
