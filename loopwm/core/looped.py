"""The looped core: prelude, shared block, coda."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.core.block import AbstractBlock
from loopwm.core.bounded import BoundedBlock
from loopwm.core.contractive import LAYERS, ContractiveBlock, LayerKind
from loopwm.core.depth import AbstractDepthRule
from loopwm.core.gate import NO_GATE, HaltingGate, with_gate
from loopwm.core.gradient import FULL, LoopGradient, check_gradient
from loopwm.core.iterate import AbstractUpdate, Found, iterate, unroll
from loopwm.core.retention import check_gamma, check_retention
from loopwm.core.solution import Solution
from loopwm.core.uncertified import FreeBlock, LinearBlock
from loopwm.errors import UsageError
from loopwm.nn import ResidualLayer, SoftNorm
from loopwm.stability import Mode, UpdateDeclaration


@dataclasses.dataclass(frozen=True)
class CoreConfig:
    """Size and contraction of a looped core."""

    mode: Mode = Mode.CONTRACTIVE
    """What is guaranteed of the loop: contractive, bounded, linear or free."""
    width: int = 48
    """Size of the loop state h and of the input e."""
    layers: int = 2
    """Layers in the shared block; in other modes than contractive they are residual layers."""
    layer: LayerKind = LayerKind.CONVEX_POTENTIAL
    """Kind of the layers in mode contractive: convex_potential, sll or sandwich."""
    gamma: float = 0.95
    """γ, Lipschitz constant of the block in h, in (0, 1). Mode contractive alone."""
    retention_min: float = 0.05
    """Smallest retention ā of a channel, in (0, 1). Modes contractive and bounded."""
    retention_max: float = 0.6
    """Largest retention ā of a channel, in (retention_min, 1). Modes contractive and bounded."""
    gate: bool = False
    """Learn a gate that says after each loop whether to stop; halting rule `gate` needs it. Its
    loss keeps and differentiates every loop, whatever `gradient` is."""

    def __post_init__(self):
        """Refuses numbers outside their ranges, and names that are none."""
        object.__setattr__(self, "mode", member(Mode, self.mode, "model.core.mode"))
        object.__setattr__(self, "layer", member(LayerKind, self.layer, "model.core.layer"))
        if self.width < 1 or self.layers < 1:
            raise UsageError(
                f"model.core.width is {self.width} and layers {self.layers}; both need to be at "
                "least 1."
            )
        check_gamma("model.core.gamma", self.gamma)
        check_retention(
            "model.core.retention_min and retention_max", self.retention_min, self.retention_max
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


def residual_hidden(width: int) -> int:
    """Hidden units of a residual layer, in other modes than contractive.

    Three matrices of width × hidden, where a convex-potential layer has two of width × width.
    """
    return max(1, round(2 * width / 3))


def build_block(
    config: CoreConfig, *, key_retention: PRNGKeyArray, keys: tuple[PRNGKeyArray, ...]
) -> AbstractBlock:
    """The shared block of a core's mode.

    Args:
        config: sizes, contraction and mode.
        key_retention: PRNG key of the retention.
        keys: PRNG keys of the layers, one each.

    Returns:
        The block, freshly initialised.
    """
    width = config.width
    limits = {"retention_min": config.retention_min, "retention_max": config.retention_max}
    if config.mode is Mode.CONTRACTIVE:
        return ContractiveBlock(
            layers=tuple(LAYERS[config.layer](width, width, width, key=k) for k in keys),
            retention=eqx.nn.Linear(width, width, key=key_retention),
            gamma=config.gamma,
            **limits,
        )
    hidden = residual_hidden(width)
    layers = tuple(ResidualLayer(width, hidden, width, key=k) for k in keys)
    if config.mode is Mode.LINEAR:
        drive = eqx.nn.Linear(width, width, use_bias=False, key=key_retention)
        return LinearBlock(layers, jnp.zeros(width), jnp.zeros(width), drive)
    retention = eqx.nn.Linear(width, width, key=key_retention)
    if config.mode is Mode.BOUNDED:
        return BoundedBlock(layers, retention, SoftNorm(float(np.sqrt(width))), **limits)
    return FreeBlock(layers, retention)


class LoopedCore(eqx.Module):
    r"""Latent transition by repeated application of one shared block.

    $$e = \mathrm{Prelude}(z, u), \quad h_0 = 0, \quad
    h_{t+1} = \bar a(e) \odot h_t + (1-\bar a(e)) \odot g(h_t, e), \quad
    \Delta z = \mathrm{Coda}(h_T, e),$$

    in mode `contractive`; the other modes differ in the block alone.

    Source: LoopWM (arXiv 2606.18208), equations of the looped block, rewritten with
        $\bar R + \bar B e = (1 - \bar A) g$ so that the whole update can be certified.
    """

    prelude: Prelude
    block: AbstractBlock
    coda: eqx.nn.Linear
    gate: HaltingGate | None
    """Says after each loop whether to stop, if the configuration asks for one."""
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
        self.block = build_block(config, key_retention=key_retention, keys=tuple(keys))
        self.coda = eqx.nn.Linear(2 * width, latent, key=key_coda)
        self.gate = HaltingGate(width) if config.gate else None
        self.config = config

    def bind(self, e: Float[Array, " width"]) -> AbstractUpdate:
        """The inner update for one input e of shape (width,)."""
        return self.block.bind(e)

    def __call__(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        rule: AbstractDepthRule,
        gradient: LoopGradient = FULL,
    ) -> Solution[Float[Array, " latent"]]:
        """The change of the latent state over one environment step.

        Args:
            z: latent state, shape (latent,).
            u: action embedding, shape (action,).
            rule: how many loops.
            gradient: how the loops are differentiated in reverse mode.

        Returns:
            Δz of shape (latent,), with the loop's statistics.

        Raises:
            UsageError: the rule needs a gate and there is none, or the gradient is implicit and
                the core's mode is not contractive.
        """
        check_gradient(gradient, self.config)
        e = self.prelude(z, u)
        update = self.bind(e)
        solution = iterate(update, update.start(), with_gate(rule, self.gate), gradient)
        change = self.coda(jnp.concatenate([solution.value, e]))
        return Solution(value=change, result=solution.result, stats=solution.stats)

    def unroll(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        depth: int,
        read: Callable[[Solution[Float[Array, " latent"]]], Found],
    ) -> Found:
        """What is read of Δz after 0, 1 … `depth` loops; see `loopwm.core.unroll`."""
        e = self.prelude(z, u)
        update = self.bind(e)

        def of_change(inner: Solution[Array]) -> Found:
            change = self.coda(jnp.concatenate([inner.value, e]))
            return read(Solution(value=change, result=inner.result, stats=inner.stats))

        return unroll(update, update.start(), depth, of_change)

    def exits(
        self, z: Float[Array, " latent"], u: Float[Array, " action"], depth: int
    ) -> tuple[Float[Array, "loops latent"], Float[Array, " loops"]]:
        """What the core would answer after each loop, and what its gate says of each.

        Args:
            z: latent state, shape (latent,).
            u: action embedding, shape (action,).
            depth: T, number of loops.

        Returns:
            Δz after loops 1 … T, shape (T, latent), and the gate's logits, shape (T,).

        Raises:
            UsageError: the core has no gate.
        """
        if self.gate is None:
            raise UsageError(NO_GATE)
        e = self.prelude(z, u)
        update = self.bind(e)

        def body(h, _):
            after = update(h)
            return after, after

        _, states = jax.lax.scan(body, update.start(), None, depth)
        changes = jax.vmap(lambda h: self.coda(jnp.concatenate([h, e])))(states)
        return changes, jax.vmap(self.gate)(states)

    def declare(self) -> UpdateDeclaration:
        """What `certify` needs, for the weights as they are now."""
        return self.block.declare()
