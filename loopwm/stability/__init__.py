"""Bounds, certificates and adversaries for contractions; usable on any module."""

from loopwm.stability import weighted as weighted
from loopwm.stability.attack import AttackResult as AttackResult
from loopwm.stability.attack import attack as attack
from loopwm.stability.certificate import Certifiable as Certifiable
from loopwm.stability.certificate import Certificate as Certificate
from loopwm.stability.certificate import LayerBound as LayerBound
from loopwm.stability.certificate import Level as Level
from loopwm.stability.certificate import Norm as Norm
from loopwm.stability.certificate import UpdateDeclaration as UpdateDeclaration
from loopwm.stability.certificate import certify as certify
from loopwm.stability.spectral import exact_norm as exact_norm
from loopwm.stability.spectral import gram_bound as gram_bound
