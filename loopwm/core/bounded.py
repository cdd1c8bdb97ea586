"""The block of mode `bounded`: states stay in a box, and differences grow by a known factor."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core.block import AbstractBlock
from loopwm.core.contractive import gated
from loopwm.core.iterate import AbstractUpdate
from loopwm.nn import ResidualLayer, SoftNorm
from loopwm.stability import LayerBound, Mode, UpdateDeclaration, norms


class BoundedUpdate(AbstractUpdate):
    r"""One loop: $h^+ = \bar a \odot h + (1-\bar a) \odot \mathrm{SoftNorm}_R(L(h))$.

    Every entry of $h^+$ is a mean of the same entry of h and a number within ±R.
    """

    layers: tuple[ResidualLayer, ...]
    injected: tuple[Float[Array, " hidden"], ...]
    """U_l e + b_l of each layer, shape (hidden,)."""
    retention: Float[Array, " width"]
    """ā(e), shape (width,), in (0, 1)."""
    bound: SoftNorm

    def __call__(self, h: Float[Array, " width"]) -> Float[Array, " width"]:
        """One loop: h of shape (width,) to h⁺ of shape (width,)."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.retention * h + (1.0 - self.retention) * self.bound(y)

    def norm(self, x: Float[Array, " width"]) -> Float[Array, ""]:
        """‖x‖₂."""
        return norms.two(x)

    def rate(self) -> Float[Array, ""]:
        """Infinite: nothing is certified to contract; `certify` states the growth factor."""
        return jnp.asarray(jnp.inf)

    def rounding(self, h: Float[Array, " width"]) -> Float[Array, ""]:
        """Infinite: without a contraction no error bound rests on it."""
        return jnp.asarray(jnp.inf)


class BoundedBlock(AbstractBlock):
    """Residual layers without a cap, behind a soft norm, and a gated retention.

    The certificate is of level `ball`: a box of half-width R for every depth and input, and the
    largest growth of a difference in one loop, in the P-norm.
    """

    layers: tuple[ResidualLayer, ...]
    retention: eqx.nn.Linear
    """Logits of ā(e) within its range."""
    bound: SoftNorm
    retention_min: float = eqx.field(static=True)
    """Smallest ā."""
    retention_max: float = eqx.field(static=True)
    """Largest ā."""

    def __init__(
        self,
        width: int,
        *,
        retention_min: float,
        retention_max: float,
        key_retention: PRNGKeyArray,
        keys: tuple[PRNGKeyArray, ...],
    ):
        """Builds the block; see `ContractiveBlock` for the arguments."""
        hidden = matched_hidden(width)
        self.layers = tuple(ResidualLayer(width, hidden, width, key=k) for k in keys)
        self.retention = eqx.nn.Linear(width, width, key=key_retention)
        self.bound = SoftNorm(float(np.sqrt(width)))
        self.retention_min, self.retention_max = retention_min, retention_max

    def bind(self, e: Float[Array, " width"]) -> BoundedUpdate:
        """The inner update for one input e of shape (width,)."""
        return BoundedUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=gated(self.retention(e), self.retention_min, self.retention_max),
            bound=self.bound,
        )

    def declare(self) -> UpdateDeclaration:
        """Each layer's bound, the range of the retention, and the half-width of the box."""
        high = float(np.float32(self.retention_max))
        # Each loop rounds a few times; what is kept of it sums to a geometric series in ā.
        margin = 1.0 + 16.0 * float(np.finfo(np.float32).eps) / (1.0 - high)
        return UpdateDeclaration(
            layers=tuple(
                LayerBound(name=f"layers[{i}]", bound=layer.lipschitz())
                for i, layer in enumerate(self.layers)
            ),
            scale=1.0,
            retention_min=float(np.float32(self.retention_min)),
            retention_max=high,
            mode=Mode.BOUNDED,
            radius=self.bound.radius * margin,
        )


def matched_hidden(width: int) -> int:
    """Hidden size at which a residual layer has as many weights as a convex-potential layer.

    Three matrices of width × hidden against two of width × width.
    """
    return max(1, round(2 * width / 3))
