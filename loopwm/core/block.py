"""The shared block: what a looped core repeats."""

import abc
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float

from loopwm.core.update import AbstractUpdate
from loopwm.stability import LayerBound, UpdateDeclaration, UpperBound


class AbstractBlock(eqx.Module):
    """Weights of an inner update, to be bound to an input before the loop."""

    @abc.abstractmethod
    def bind(self, e: Float[Array, "*input"]) -> AbstractUpdate:
        """The inner update for one input e; everything that depends on e alone is computed here."""

    @abc.abstractmethod
    def declare(self) -> UpdateDeclaration:
        """What `certify` needs, for the weights as they are now."""


@runtime_checkable
class _Bounded(Protocol):
    def lipschitz(self) -> UpperBound: ...


def named_bounds(layers: Sequence[_Bounded]) -> tuple[LayerBound, ...]:
    """Each layer's bound under its place and kind."""
    return tuple(
        LayerBound(name=f"layers[{i}] {type(layer).__name__}", bound=layer.lipschitz())
        for i, layer in enumerate(layers)
    )
