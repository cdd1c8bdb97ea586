"""The block of mode `contractive`: its whole update contracts, for any weights."""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core.block import AbstractBlock
from loopwm.core.iterate import AbstractUpdate
from loopwm.nn import SLL, ConvexPotential, Sandwich
from loopwm.stability import LayerBound, Norm, UpdateDeclaration, weighted


class LayerKind(enum.StrEnum):
    """Which layers with constant 1 a contractive block is made of."""

    CONVEX_POTENTIAL = "convex_potential"
    """y − Sᵀφ(Sy + Ue + b), S capped by its spectral norm."""
    SLL = "sll"
    """The same map, S capped row by row (SDP-based Lipschitz layer)."""
    SANDWICH = "sandwich"
    """Pᵀφ(Qy + Ue + b), without an identity path."""


ContractiveLayer = ConvexPotential | SLL | Sandwich
LAYERS: dict[LayerKind, type[ContractiveLayer]] = {
    LayerKind.CONVEX_POTENTIAL: ConvexPotential,
    LayerKind.SLL: SLL,
    LayerKind.SANDWICH: Sandwich,
}


class ContractiveUpdate(AbstractUpdate):
    r"""One loop with its input bound: $h^+ = \bar a \odot h + (1-\bar a) \odot g(h)$.

    $g(h) = \gamma\,(L_n \circ \dots \circ L_1)(h)$ with 1-Lipschitz layers, the input injected
    into each. Everything that depends on e alone is held here, computed once.
    """

    layers: tuple[ContractiveLayer, ...]
    injected: tuple[Float[Array, " hidden"], ...]
    """U_l e + b_l of each layer, shape (hidden,)."""
    retention: Float[Array, " width"]
    """ā(e), shape (width,), in (0, 1)."""
    gamma: float = eqx.field(static=True)

    def __call__(self, h: Float[Array, " width"]) -> Float[Array, " width"]:
        """One loop: h of shape (width,) to h⁺ of shape (width,)."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.retention * h + (1.0 - self.retention) * (self.gamma * y)

    def norm(self, x: Float[Array, " width"]) -> Float[Array, ""]:
        """‖x‖_P for this input's retention."""
        return weighted.norm(x, weighted.weights(self.retention, self.gamma))

    def rate(self) -> Float[Array, ""]:
        """ρ = max_i ā_i + (1 − ā_i)γ, rounded up."""
        rate = jnp.max(weighted.channel_rates(self.retention, self.gamma))
        return rate * (1.0 + 4.0 * jnp.finfo(rate.dtype).eps)

    def rounding(self, h: Float[Array, " width"]) -> Float[Array, ""]:
        """η: the layers' rounding (each later layer is 1-Lipschitz, so they add) and the mix.

        A floor covers what the norms lose when squares of tiny entries vanish.
        """
        unit = 0.5 * jnp.finfo(h.dtype).eps
        y, total = h, jnp.zeros((), h.dtype)
        for layer, injected in zip(self.layers, self.injected, strict=True):
            total = total + layer.rounding(y, injected)
            y = layer(y, injected)
        total = total + 4.0 * unit * (jnp.linalg.norm(h) + jnp.linalg.norm(y) + total)
        floor = 4.0 * np.sqrt(h.size * float(jnp.finfo(h.dtype).tiny))
        p = weighted.weights(self.retention, self.gamma)
        return jnp.sqrt(jnp.max(p)) * (total + floor)


class ContractiveBlock(AbstractBlock):
    """Layers with constant 1, the input injected into each, and a gated retention.

    The certificate is of level `global` in the P-norm (see `loopwm.stability.weighted`).
    """

    layers: tuple[ContractiveLayer, ...]
    retention: eqx.nn.Linear
    """Logits of ā(e) within its range."""
    gamma: float = eqx.field(static=True)
    """γ, Lipschitz constant of g in h, in (0, 1)."""
    retention_min: float = eqx.field(static=True)
    """Smallest ā."""
    retention_max: float = eqx.field(static=True)
    """Largest ā."""

    def __init__(
        self,
        width: int,
        *,
        layer: LayerKind,
        gamma: float,
        retention_min: float,
        retention_max: float,
        key_retention: PRNGKeyArray,
        keys: tuple[PRNGKeyArray, ...],
    ):
        """Builds the block.

        Args:
            width: size of h and of e.
            layer: which layers.
            gamma: γ.
            retention_min: smallest ā.
            retention_max: largest ā.
            key_retention: PRNG key of the retention.
            keys: PRNG keys of the layers, one each.
        """
        self.layers = tuple(LAYERS[layer](width, width, width, key=k) for k in keys)
        self.retention = eqx.nn.Linear(width, width, key=key_retention)
        self.gamma = gamma
        self.retention_min, self.retention_max = retention_min, retention_max

    def bind(self, e: Float[Array, " width"]) -> ContractiveUpdate:
        """The inner update for one input e of shape (width,)."""
        return ContractiveUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=gated(self.retention(e), self.retention_min, self.retention_max),
            gamma=self.gamma,
        )

    def declare(self) -> UpdateDeclaration:
        """Each layer's bound, γ, and the range of the retention."""
        return UpdateDeclaration(
            layers=tuple(
                LayerBound(name=f"layers[{i}]", bound=layer.lipschitz())
                for i, layer in enumerate(self.layers)
            ),
            # The float32 numbers that the loop computes with, not the decimals they came from.
            scale=float(np.float32(self.gamma)),
            retention_min=float(np.float32(self.retention_min)),
            retention_max=float(np.float32(self.retention_max)),
            norm=Norm.P,
        )


def gated(logits: Float[Array, "*state"], low: float, high: float) -> Float[Array, "*state"]:
    """Retention in [low, high] from logits of any shape."""
    retention = low + (high - low) * jax.nn.sigmoid(logits)
    return jnp.clip(retention, low, high)  # rounding may step over an end
