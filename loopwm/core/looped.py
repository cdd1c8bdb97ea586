"""The looped core: prelude, shared block, coda."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core.depth import AbstractDepthRule
from loopwm.core.iterate import AbstractUpdate, iterate
from loopwm.core.solution import Solution
from loopwm.errors import UsageError
from loopwm.nn import ConvexPotential, SoftNorm
from loopwm.stability import LayerBound, UpdateDeclaration, weighted


@dataclasses.dataclass(frozen=True)
class CoreConfig:
    """Size and contraction of a looped core."""

    width: int = 48
    """Size of the loop state h and of the input e."""
    layers: int = 2
    """Convex-potential layers in the shared block."""
    gamma: float = 0.95
    """γ, Lipschitz constant of the block in h, in (0, 1)."""
    retention_min: float = 0.05
    """Smallest retention ā of a channel, in (0, 1)."""
    retention_max: float = 0.6
    """Largest retention ā of a channel, in (retention_min, 1)."""

    def __post_init__(self):
        """Refuses numbers outside their ranges."""
        if self.width < 1 or self.layers < 1:
            raise UsageError(
                f"model.core.width is {self.width} and layers {self.layers}; both need to be at "
                "least 1."
            )
        # As float32 numbers, in which the loop runs: 1 − 1e-9 is 1 there.
        gamma, low, high = map(np.float32, (self.gamma, self.retention_min, self.retention_max))
        if not 0.0 < gamma < 1.0:
            raise UsageError(
                f"model.core.gamma is {self.gamma}; a contraction needs a value between 0 and 1."
            )
        if not 0.0 < low < high < 1.0:
            raise UsageError(
                f"model.core.retention_min and retention_max are {self.retention_min} and "
                f"{self.retention_max}; give 0 < retention_min < retention_max < 1."
            )


class Prelude(eqx.Module):
    """e = SoftNorm(silu(W [z, u] + b)), computed once per transition."""

    linear: eqx.nn.Linear
    norm: SoftNorm

    def __init__(self, latent: int, action: int, width: int, *, key: PRNGKeyArray):
        """Args: size of z, size of u, size of e, PRNG key."""
        self.linear = eqx.nn.Linear(latent + action, width, key=key)
        self.norm = SoftNorm(float(np.sqrt(width)))

    def __call__(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, " width"]:
        """e of shape (width,) from z of shape (latent,) and u of shape (action,)."""
        return self.norm(jax.nn.silu(self.linear(jnp.concatenate([z, u]))))


class BoundUpdate(AbstractUpdate):
    r"""One loop with its input bound: $h^+ = \bar a \odot h + (1-\bar a) \odot g(h)$.

    $g(h) = \gamma\,(L_n \circ \dots \circ L_1)(h)$ with 1-Lipschitz layers, the input injected
    into each. Everything that depends on e alone is held here, computed once.
    """

    layers: tuple[ConvexPotential, ...]
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


class LoopedCore(eqx.Module):
    r"""Latent transition by repeated application of one shared block.

    $$e = \mathrm{Prelude}(z, u), \quad h_0 = 0, \quad
    h_{t+1} = \bar a(e) \odot h_t + (1-\bar a(e)) \odot g(h_t, e), \quad
    \Delta z = \mathrm{Coda}(h_T, e).$$

    Source: LoopWM (arXiv 2606.18208), equations of the looped block, rewritten with
        $\bar R + \bar B e = (1 - \bar A) g$ so that the whole update can be certified.
    """

    prelude: Prelude
    layers: tuple[ConvexPotential, ...]
    retention: eqx.nn.Linear
    coda: eqx.nn.Linear
    config: CoreConfig = eqx.field(static=True)

    def __init__(self, latent: int, action: int, config: CoreConfig, *, key: PRNGKeyArray):
        """Builds the core.

        Args:
            latent: size of z.
            action: size of the action embedding u.
            config: sizes and contraction.
            key: PRNG key.
        """
        key_prelude, key_retention, key_coda, *keys = jax.random.split(key, 3 + config.layers)
        width = config.width
        self.prelude = Prelude(latent, action, width, key=key_prelude)
        self.layers = tuple(ConvexPotential(width, width, width, key=k) for k in keys)
        self.retention = eqx.nn.Linear(width, width, key=key_retention)
        self.coda = eqx.nn.Linear(2 * width, latent, key=key_coda)
        self.config = config

    def bind(self, e: Float[Array, " width"]) -> BoundUpdate:
        """The inner update for one input e of shape (width,)."""
        low, high = self.config.retention_min, self.config.retention_max
        retention = low + (high - low) * jax.nn.sigmoid(self.retention(e))
        return BoundUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=jnp.clip(retention, low, high),  # rounding may step over an end
            gamma=self.config.gamma,
        )

    def __call__(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        rule: AbstractDepthRule,
    ) -> Solution[Float[Array, " latent"]]:
        """The change of the latent state over one environment step.

        Args:
            z: latent state, shape (latent,).
            u: action embedding, shape (action,).
            rule: how many loops.

        Returns:
            Δz of shape (latent,), with the loop's statistics.
        """
        e = self.prelude(z, u)
        solution = iterate(self.bind(e), jnp.zeros(self.config.width), rule)
        change = self.coda(jnp.concatenate([solution.value, e]))
        return Solution(value=change, result=solution.result, stats=solution.stats)

    def declare(self) -> UpdateDeclaration:
        """What `certify` needs: each layer's bound, γ, and the range of the retention."""
        return UpdateDeclaration(
            layers=tuple(
                LayerBound(name=f"layers[{i}]", constant=layer.lipschitz())
                for i, layer in enumerate(self.layers)
            ),
            # The float32 numbers that the loop computes with, not the decimals they came from.
            scale=float(np.float32(self.config.gamma)),
            retention_min=float(np.float32(self.config.retention_min)),
            retention_max=float(np.float32(self.config.retention_max)),
        )
