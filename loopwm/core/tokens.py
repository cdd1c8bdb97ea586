"""The blocks of cores for tokens that meet by attention."""

import dataclasses
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from loopwm.choices import member
from loopwm.core.block import AbstractBlock, named_bounds
from loopwm.core.contractive import ContractiveBlock
from loopwm.core.grid import GridConfig
from loopwm.core.iterate import AbstractUpdate
from loopwm.core.retention import (
    check_gamma,
    check_retention,
    gated,
    rounded_down,
    rounded_up,
)
from loopwm.errors import UsageError
from loopwm.nn import (
    AbstractInjected,
    AttentionLayer,
    ConvexPotential,
    CrossAttention,
    SelfAttention,
    SoftNorm,
    TokenWise,
)
from loopwm.stability import Norm, UpdateDeclaration, norms


class Preset(enum.StrEnum):
    """Where the keys and values of a token core's attention come from."""

    CROSS = "cross"
    """From the input: certified in the P-norm, a retention for each token and channel."""
    SELF = "self"
    """From the state: certified in the norm of the worst token, one retention for all."""


@dataclasses.dataclass(frozen=True)
class TokenConfig(GridConfig):
    """Size, attention and contraction of a core for tokens."""

    channels: int = 16
    """Channels of a token of the loop state, a multiple of `heads`."""
    dimensions: int = 1
    """Axes of the grid: always 1, the row of tokens."""
    preset: Preset = Preset.CROSS
    """Where keys and values come from: cross (the input) or self (the state)."""
    heads: int = 4
    """Heads of the attention."""
    layers: int = 1
    """Pairs of an attention layer and a convex-potential layer in the shared block."""
    gamma: float = 0.95
    """γ, Lipschitz constant of the block in h, in (0, 1)."""
    retention_min: float = 0.05
    """Smallest retention ā, in (0, 1)."""
    retention_max: float = 0.6
    """Largest retention ā, in (retention_min, 1)."""

    def __post_init__(self):
        """Refuses numbers outside their ranges, and a preset that is none."""
        object.__setattr__(self, "preset", member(Preset, self.preset, "preset"))
        self.check_sizes("heads", "layers")
        if self.dimensions != 1 or self.periodic:
            raise UsageError(
                f"dimensions is {self.dimensions} and periodic {self.periodic}; use 1 and false "
                "for tokens, which have no neighbours."
            )
        if not self.injected:
            raise UsageError(
                "The attention of every loop reads the input, so it has to enter every loop; set "
                "injected."
            )
        if self.channels % self.heads:
            raise UsageError(
                f"{self.heads} heads do not divide {self.channels} channels; give a number of "
                "heads that does."
            )
        check_gamma("gamma", self.gamma)
        check_retention("retention_min and retention_max", self.retention_min, self.retention_max)

    def build_block(self, *, key: PRNGKeyArray) -> "ContractiveBlock | TokenBlock":
        """The shared block of the preset, freshly initialised."""
        key_retention, *keys = jax.random.split(key, 1 + 2 * self.layers)
        cross = self.preset is Preset.CROSS
        kind, norm = (CrossAttention, Norm.TWO) if cross else (SelfAttention, Norm.TOKENS)
        layers: list[AbstractInjected] = []
        for key_meet, key_mix in zip(keys[::2], keys[1::2], strict=True):
            meet = kind(self.channels, self.inputs, heads=self.heads, key=key_meet)
            mix = ConvexPotential(self.channels, self.channels, self.inputs, key=key_mix)
            soft = SoftNorm(float(np.sqrt(self.channels)))
            layers += [AttentionLayer(meet, soft, jnp.zeros(()), norm), TokenWise(mix, norm)]
        retention = eqx.nn.Linear(self.inputs, self.channels if cross else 1, key=key_retention)
        limits = {
            "gamma": self.gamma,
            "retention_min": self.retention_min,
            "retention_max": self.retention_max,
        }
        if cross:
            return ContractiveBlock(tuple(layers), retention, **limits)
        return TokenBlock(tuple(layers), retention, self.channels, **limits)


class TokenUpdate(AbstractUpdate):
    r"""One loop with its input bound: $h^+ = \bar a\, h + (1-\bar a)\, g(h)$, ā one number.

    $g(h) = \gamma\,(L_n \circ \dots \circ L_1)(h)$ with layers that are 1-Lipschitz in
    $\|h\| = \max_n \|h_n\|_2$, so that
    $\|h^+ - g^+\| \le (\bar a + (1-\bar a)\gamma)\|h - g\|$ by the triangle inequality. A ā of
    its own for each channel would break it, as every token may depend on all others.
    """

    layers: tuple[AbstractInjected, ...]
    injected: tuple[PyTree, ...]
    """What each layer needs of e."""
    retention: Float[Array, ""]
    """ā(e), scalar in (0, 1)."""
    zero: Float[Array, "tokens width"]
    """h_0 = 0."""
    gamma: float = eqx.field(static=True)

    def start(self) -> Float[Array, "*state"]:
        """h_0 = 0."""
        return self.zero

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, both of shape (tokens, width)."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.retention * h + (1.0 - self.retention) * (self.gamma * y)

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """max_n ‖x_n‖₂ over tokens."""
        return norms.tokens(x)

    def rate(self) -> Float[Array, ""]:
        """ρ = ā + (1 − ā)γ, rounded up."""
        rate = self.retention + (1.0 - self.retention) * self.gamma
        return rate * (1.0 + 4.0 * jnp.finfo(rate.dtype).eps)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """η: the layers' rounding (each later layer is 1-Lipschitz, so they add) and the mix."""
        unit = 0.5 * float(jnp.finfo(h.dtype).eps)
        y, total = h, jnp.zeros((), h.dtype)
        for layer, injected in zip(self.layers, self.injected, strict=True):
            total = total + layer.rounding(y, injected)
            y = layer(y, injected)
        # A long sum of squares loses up to its number of terms in roundings, and what is tiny.
        slack = 1.0 + (h.shape[-1] + 16) * unit
        total = total + 4.0 * unit * slack * (norms.tokens(h) + norms.tokens(y) + total)
        return slack * total + 4.0 * float(np.sqrt(h.shape[-1] * float(jnp.finfo(h.dtype).tiny)))


class TokenBlock(AbstractBlock):
    """Layers with constant 1 in the norm of the worst token, and one gated retention for all.

    The certificate is of level `global` in `Norm.TOKENS`.
    """

    layers: tuple[AbstractInjected, ...]
    """Layers with constant 1 in `Norm.TOKENS`, in the order in which they are applied."""
    retention: eqx.nn.Linear
    """Logit of ā from the mean of e over tokens, shape (1, inputs)."""
    width: int = eqx.field(static=True)
    """Channels of a token of the state."""
    gamma: float = eqx.field(static=True)
    """γ, Lipschitz constant of g in h, in (0, 1)."""
    retention_min: float = eqx.field(static=True)
    """Smallest ā."""
    retention_max: float = eqx.field(static=True)
    """Largest ā."""

    def bind(self, e: Float[Array, "tokens inputs"]) -> TokenUpdate:
        """The inner update for one input e of shape (tokens, inputs)."""
        mean = jnp.mean(e, axis=0)
        retention = gated(self.retention, mean, self.retention_min, self.retention_max)
        return TokenUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=retention[0],
            zero=jnp.zeros((len(e), self.width), e.dtype),
            gamma=self.gamma,
        )

    def declare(self) -> UpdateDeclaration:
        """Each layer's bound in the norm of the worst token, γ, and the range of the retention."""
        return UpdateDeclaration(
            layers=named_bounds(self.layers),
            scale=rounded_up(self.gamma),
            retention_min=rounded_down(self.retention_min),
            retention_max=rounded_up(self.retention_max),
            norm=Norm.TOKENS,
        )
