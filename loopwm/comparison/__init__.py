"""Comparisons of world models: `loopwm compare`."""

from loopwm.comparison.backends import AbstractBackend as AbstractBackend
from loopwm.comparison.backends import InlineBackend as InlineBackend
from loopwm.comparison.backends import LocalBackend as LocalBackend
from loopwm.comparison.jobs import Job as Job
from loopwm.comparison.run import compare as compare
