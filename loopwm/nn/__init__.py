"""Layers, those with a declared Lipschitz constant first."""

from loopwm.nn.lipschitz import AbstractLipschitz as AbstractLipschitz
from loopwm.nn.lipschitz import CappedLinear as CappedLinear
from loopwm.nn.lipschitz import ConvexPotential as ConvexPotential
from loopwm.nn.lipschitz import SoftNorm as SoftNorm
from loopwm.nn.mlp import MLP as MLP
from loopwm.nn.parametrization import AbstractParametrization as AbstractParametrization
from loopwm.nn.parametrization import SpectralCap as SpectralCap
from loopwm.nn.parametrization import array_of as array_of
from loopwm.nn.parametrization import resolve as resolve
