"""The block of mode `bounded`: states stay in a box, and differences grow by a known factor."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.core.block import AbstractBlock, named_bounds
from loopwm.core.cells import each_cell
from loopwm.core.retention import Retention, gated, rounded_down, rounded_up
from loopwm.core.update import AbstractUpdate
from loopwm.nn import AbstractResidual, SoftNorm
from loopwm.stability import Mode, UpdateDeclaration, norms


class BoundedUpdate(AbstractUpdate):
    r"""One loop: $h^+ = \bar a \odot h + (1-\bar a) \odot \mathrm{SoftNorm}_R(L(h))$.

    The soft norm is that of each cell's channels, so every entry of $h^+$ is a mean of the same
    entry of h and a number within ±R.
    """

    layers: tuple[AbstractResidual, ...]
    injected: tuple[Float[Array, "*hidden"], ...]
    """What each layer needs of e."""
    retention: Float[Array, "*state"]
    """ā(e), of the state's shape, in (0, 1)."""
    bound: SoftNorm

    def start(self) -> Float[Array, "*state"]:
        """h_0 = 0."""
        return jnp.zeros_like(self.retention)

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, both of the state's shape."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.retention * h + (1.0 - self.retention) * each_cell(self.bound, y)

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """‖x‖₂."""
        return norms.two(x)

    def rate(self) -> Float[Array, ""]:
        """Infinite: nothing is certified to contract; `certify` states the growth factor."""
        return jnp.asarray(jnp.inf)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """Infinite: without a contraction no error bound rests on it."""
        return jnp.asarray(jnp.inf)


class BoundedBlock(AbstractBlock):
    """Residual layers without a cap, behind a soft norm, and a gated retention.

    The certificate is of level `ball`: a box of half-width R for every depth and input, and the
    largest growth of a difference in one loop, in the P-norm.
    """

    layers: tuple[AbstractResidual, ...]
    retention: Retention
    """Logits of ā within its range."""
    bound: SoftNorm
    retention_min: float = eqx.field(static=True)
    """Smallest ā."""
    retention_max: float = eqx.field(static=True)
    """Largest ā."""

    def bind(self, e: Float[Array, "*input"]) -> BoundedUpdate:
        """The inner update for one input e."""
        return BoundedUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=gated(self.retention, e, self.retention_min, self.retention_max),
            bound=self.bound,
        )

    def declare(self) -> UpdateDeclaration:
        """Each layer's bound, the range of the retention, and the half-width of the box."""
        high = rounded_up(self.retention_max)
        # Each loop rounds a few times; what is kept of it sums to a geometric series in ā.
        margin = 1.0 + 16.0 * float(np.finfo(np.float32).eps) / (1.0 - high)
        return UpdateDeclaration(
            layers=named_bounds(self.layers),
            scale=1.0,
            retention_min=rounded_down(self.retention_min),
            retention_max=high,
            mode=Mode.BOUNDED,
            radius=self.bound.radius * margin,
        )
