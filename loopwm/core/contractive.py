"""The block of mode `contractive`: its whole update contracts, for any weights."""

import enum

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from loopwm.core.block import AbstractBlock, named_bounds
from loopwm.core.retention import Retention, gated, rounded_down, rounded_up
from loopwm.core.update import AbstractUpdate
from loopwm.nn import SLL, AbstractInjected, ConvexPotential, Sandwich
from loopwm.stability import Norm, UpdateDeclaration, norms, weighted


class LayerKind(enum.StrEnum):
    """Which layers with constant 1 a contractive block is made of."""

    CONVEX_POTENTIAL = "convex_potential"
    """y − Sᵀφ(Sy + Ue + b), S capped by its spectral norm."""
    SLL = "sll"
    """The same map, S capped row by row (SDP-based Lipschitz layer)."""
    SANDWICH = "sandwich"
    """Pᵀφ(Qy + Ue + b), without an identity path."""


LAYERS: dict[LayerKind, type[ConvexPotential] | type[SLL] | type[Sandwich]] = {
    LayerKind.CONVEX_POTENTIAL: ConvexPotential,
    LayerKind.SLL: SLL,
    LayerKind.SANDWICH: Sandwich,
}


class ContractiveUpdate(AbstractUpdate):
    r"""One loop with its input bound: $h^+ = \bar a \odot h + (1-\bar a) \odot g(h)$.

    $g(h) = \gamma\,(L_n \circ \dots \circ L_1)(h)$ with layers that are 1-Lipschitz in the 2-norm
    of all entries, the input injected into each. Everything that depends on e alone is held here,
    computed once. The proof of `loopwm.stability.weighted` takes ā of any cell and channel for
    that of one coordinate, so the state may have any shape.
    """

    layers: tuple[AbstractInjected, ...]
    injected: tuple[PyTree, ...]
    """What each layer needs of e."""
    retention: Float[Array, "*state"]
    """ā(e), of the state's shape, in (0, 1)."""
    gamma: float = eqx.field(static=True)

    def start(self) -> Float[Array, "*state"]:
        """h_0 = 0."""
        return jnp.zeros_like(self.retention)

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, both of the state's shape."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.retention * h + (1.0 - self.retention) * (self.gamma * y)

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """‖x‖_P over all entries, for this input's retention."""
        return weighted.norm(x.ravel(), weighted.weights(self.retention.ravel(), self.gamma))

    def rate(self) -> Float[Array, ""]:
        """ρ = max_i ā_i + (1 − ā_i)γ, rounded up."""
        rate = jnp.max(weighted.channel_rates(self.retention.ravel(), self.gamma))
        return rate * (1.0 + 4.0 * jnp.finfo(rate.dtype).eps)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """η: the layers' rounding (each later layer is 1-Lipschitz, so they add) and the mix."""
        unit = 0.5 * float(jnp.finfo(h.dtype).eps)
        y, total = h, jnp.zeros((), h.dtype)
        for layer, injected in zip(self.layers, self.injected, strict=True):
            total = total + layer.rounding(y, injected)
            y = layer(y, injected)
        # A long sum of squares loses up to its number of terms in roundings, and what is tiny.
        slack = 1.0 + (h.size + 16) * unit
        total = total + 4.0 * unit * slack * (norms.two(h) + norms.two(y) + total)
        floor = 4.0 * float(np.sqrt(h.size * float(jnp.finfo(h.dtype).tiny)))
        p = weighted.weights(self.retention.ravel(), self.gamma)
        return slack * jnp.sqrt(jnp.max(p)) * (total + floor)


class ContractiveBlock(AbstractBlock):
    """Layers with constant 1, the input injected into each, and a gated retention.

    The certificate is of level `global` in the P-norm (see `loopwm.stability.weighted`).
    """

    layers: tuple[AbstractInjected, ...]
    """Layers with constant 1 in the 2-norm, in the order in which they are applied."""
    retention: Retention
    """Logits of ā."""
    gamma: float = eqx.field(static=True)
    """γ, Lipschitz constant of g in h, in (0, 1)."""
    retention_min: float = eqx.field(static=True)
    """Smallest ā."""
    retention_max: float = eqx.field(static=True)
    """Largest ā."""

    def bind(self, e: Float[Array, "*input"]) -> ContractiveUpdate:
        """The inner update for one input e."""
        return ContractiveUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=gated(self.retention, e, self.retention_min, self.retention_max),
            gamma=self.gamma,
        )

    def declare(self) -> UpdateDeclaration:
        """Each layer's bound, γ, and the range of the retention."""
        return UpdateDeclaration(
            layers=named_bounds(self.layers),
            scale=rounded_up(self.gamma),
            retention_min=rounded_down(self.retention_min),
            retention_max=rounded_up(self.retention_max),
            norm=Norm.P,
        )
