"""Compiled programs kept between processes, so that a later one need not trace them again."""

from loopwm.programs.identity import program_name as program_name
from loopwm.programs.stored import RUNS_ONCE as RUNS_ONCE
from loopwm.programs.stored import StoredProgram as StoredProgram
from loopwm.programs.stored import keep_in as keep_in
