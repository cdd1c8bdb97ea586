"""The shared block: what a looped core repeats."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from loopwm.core.iterate import AbstractUpdate
from loopwm.stability import UpdateDeclaration


class AbstractBlock(eqx.Module):
    """Weights of an inner update, to be bound to an input before the loop."""

    @abc.abstractmethod
    def bind(self, e: Float[Array, "*input"]) -> AbstractUpdate:
        """The inner update for one input e; everything that depends on e alone is computed here."""

    @abc.abstractmethod
    def declare(self) -> UpdateDeclaration:
        """What `certify` needs, for the weights as they are now."""
