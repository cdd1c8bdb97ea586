"""Evaluation: episodes, reports, videos."""

from loopwm.evaluation.episodes import run_episodes as run_episodes
from loopwm.evaluation.report import write_report as write_report
from loopwm.evaluation.video import record_episode as record_episode
