"""Certify a block of your own in four ways, from the strongest claim to the weakest.

python examples/certify_your_own.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from loopwm.nn import CappedLinear, ConvexPotential, SoftNorm
from loopwm.stability import (
    LayerBound,
    Norm,
    UpdateDeclaration,
    attack,
    certify,
    norms,
    verify,
)

WIDTH = 8
state = jnp.zeros(WIDTH)

# 1. A module made of layers whose constants are known: level `global`, in the 2-norm.
keys = jax.random.split(jax.random.key(0), 4)
block = eqx.nn.Sequential(
    [
        CappedLinear(WIDTH, WIDTH, cap=0.9, key=keys[0]),
        eqx.nn.Lambda(jnp.tanh),
        SoftNorm(radius=1.0),
    ]
)
print(certify(block, state).statement())


# 2. A module that declares its update h⁺ = ā⊙h + (1−ā)⊙γL(h, e): level `global`, in the P-norm.
class Gated(eqx.Module):
    """A retention of its own for each channel, and a layer with an input."""

    layer: ConvexPotential
    retention: jax.Array
    """ā, shape (width,), in (0, 1)."""

    def __call__(self, h: jax.Array) -> jax.Array:
        """One loop."""
        injected = self.layer.inject(jnp.ones(WIDTH))
        return self.retention * h + (1.0 - self.retention) * 0.9 * self.layer(h, injected)

    def declare(self) -> UpdateDeclaration:
        """Bounds for the weights as they are now."""
        return UpdateDeclaration(
            layers=(LayerBound("layer", self.layer.lipschitz()),),
            scale=0.9,
            retention_min=float(self.retention.min()),
            retention_max=float(self.retention.max()),
            norm=Norm.P,
        )


gated = Gated(ConvexPotential(WIDTH, 16, WIDTH, key=keys[1]), jnp.linspace(0.1, 0.7, WIDTH))
certificate = certify(gated)
print(certificate.statement())
print(f"{certificate.sufficient_depth(tolerance=1e-3, initial_error=1.0)} loops reach 1e-3")

# 3. Any other module: no global bound, but one found state can be verified. Level `ball`.
cell = eqx.nn.GRUCell(3, WIDTH, key=keys[2])


def update(h: jax.Array) -> jax.Array:
    """One loop of a recurrent cell under an input that stays."""
    return cell(jnp.ones(3), h)


for _ in range(60):
    state = update(state)
print(verify(update, state).statement())

# 4. What a search finds: level `empirical`, a lower bound of the true rate.
found = attack(update, norms.two, WIDTH, key=keys[3], starts=16)
print(f"Level '{found.level}': no pair was found that moves apart by more than {found.ratio:.3f}.")
