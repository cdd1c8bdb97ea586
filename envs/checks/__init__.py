"""Checks of an environment before anything is trained in it: `loopwm check-env`."""

from loopwm.envs.checks.finding import Finding as Finding
from loopwm.envs.checks.finding import Level as Level
from loopwm.envs.checks.finding import Report as Report
from loopwm.envs.checks.registry import CHECKS as CHECKS
from loopwm.envs.checks.registry import check_env as check_env
