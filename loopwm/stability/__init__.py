"""Bounds, certificates, adversaries and spectra of loops; usable on any module."""

import importlib
from typing import TYPE_CHECKING, Any

from loopwm.stability import norms as norms
from loopwm.stability import weighted as weighted
from loopwm.stability.attack import AttackResult as AttackResult
from loopwm.stability.attack import attack as attack
from loopwm.stability.bounds import Estimate as Estimate
from loopwm.stability.bounds import Level as Level
from loopwm.stability.bounds import UpperBound as UpperBound
from loopwm.stability.bounds import chain as chain
from loopwm.stability.bounds import converted as converted
from loopwm.stability.bounds import residual as residual
from loopwm.stability.bounds import scaled as scaled
from loopwm.stability.bounds import total as total
from loopwm.stability.certificate import Certificate as Certificate
from loopwm.stability.certificate import TransitionCertificate as TransitionCertificate
from loopwm.stability.certify import certify as certify
from loopwm.stability.certify import certify_transition as certify_transition
from loopwm.stability.checks import check_module as check_module
from loopwm.stability.checks import check_update as check_update
from loopwm.stability.convolution import Padding as Padding
from loopwm.stability.convolution import convolution_gram_bound as convolution_gram_bound
from loopwm.stability.convolution import convolution_norm as convolution_norm
from loopwm.stability.declaration import Certifiable as Certifiable
from loopwm.stability.declaration import CertifiableTransition as CertifiableTransition
from loopwm.stability.declaration import LayerBound as LayerBound
from loopwm.stability.declaration import Mode as Mode
from loopwm.stability.declaration import TransitionDeclaration as TransitionDeclaration
from loopwm.stability.declaration import UpdateDeclaration as UpdateDeclaration
from loopwm.stability.interval import Interval as Interval
from loopwm.stability.interval import enclose as enclose
from loopwm.stability.interval import jacobian_enclosure as jacobian_enclosure
from loopwm.stability.interval import lipschitz_on as lipschitz_on
from loopwm.stability.lipschitz import HasLipschitz as HasLipschitz
from loopwm.stability.lipschitz import lipschitz as lipschitz
from loopwm.stability.norms import Norm as Norm
from loopwm.stability.spectral import exact_norm as exact_norm
from loopwm.stability.spectral import gram_bound as gram_bound
from loopwm.stability.verify import Reason as Reason
from loopwm.stability.verify import Verification as Verification
from loopwm.stability.verify import verify as verify

if TYPE_CHECKING:
    from loopwm.stability.cycles import Cycle as Cycle
    from loopwm.stability.cycles import LayerCycle as LayerCycle
    from loopwm.stability.cycles import detect_cycle as detect_cycle
    from loopwm.stability.cycles import layer_cycles as layer_cycles
    from loopwm.stability.fixed_points import FixedPoints as FixedPoints
    from loopwm.stability.fixed_points import find_fixed_points as find_fixed_points
    from loopwm.stability.lyapunov import LyapunovExponents as LyapunovExponents
    from loopwm.stability.lyapunov import lyapunov_exponents as lyapunov_exponents
    from loopwm.stability.similarity import attention_drift as attention_drift
    from loopwm.stability.similarity import cka_between_loops as cka_between_loops
    from loopwm.stability.similarity import linear_cka as linear_cka
    from loopwm.stability.spectra import Eigenvalues as Eigenvalues
    from loopwm.stability.spectra import SingularValues as SingularValues
    from loopwm.stability.spectra import eigenvalues as eigenvalues
    from loopwm.stability.spectra import singular_values as singular_values
    from loopwm.stability.spectra import spectral_radius as spectral_radius
    from loopwm.stability.trajectories import ConvergenceRate as ConvergenceRate
    from loopwm.stability.trajectories import Trajectory as Trajectory
    from loopwm.stability.trajectories import at_states as at_states
    from loopwm.stability.trajectories import convergence_rate as convergence_rate
    from loopwm.stability.trajectories import follow as follow

# The libraries underneath take a while to import, which every run would feel at its start.
_HOMES = {
    "Cycle": "cycles",
    "LayerCycle": "cycles",
    "detect_cycle": "cycles",
    "layer_cycles": "cycles",
    "FixedPoints": "fixed_points",
    "find_fixed_points": "fixed_points",
    "LyapunovExponents": "lyapunov",
    "lyapunov_exponents": "lyapunov",
    "attention_drift": "similarity",
    "cka_between_loops": "similarity",
    "linear_cka": "similarity",
    "Eigenvalues": "spectra",
    "SingularValues": "spectra",
    "eigenvalues": "spectra",
    "singular_values": "spectra",
    "spectral_radius": "spectra",
    "ConvergenceRate": "trajectories",
    "Trajectory": "trajectories",
    "at_states": "trajectories",
    "convergence_rate": "trajectories",
    "follow": "trajectories",
}


def __getattr__(name: str) -> Any:
    """Imports the tools for spectra and dynamics when they are first used."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"loopwm.stability.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'loopwm.stability' has no attribute '{name}'")
