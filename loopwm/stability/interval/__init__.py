"""Interval evaluation of JAX programs: enclosures of values, of slopes, and Lipschitz bounds.

`enclosure` has the functions and says what they prove; `program` runs a jaxpr on a `region`, with
the rules of `elementwise`, `select` and `arrays` and the rounding of `arithmetic`.
"""

from loopwm.stability.interval.arithmetic import Interval as Interval
from loopwm.stability.interval.enclosure import enclose as enclose
from loopwm.stability.interval.enclosure import jacobian_enclosure as jacobian_enclosure
from loopwm.stability.interval.enclosure import lipschitz_on as lipschitz_on
