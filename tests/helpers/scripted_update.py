"""An update whose steps are written down beforehand, for tests of halting."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from loopwm.core import AbstractUpdate


class Scripted(AbstractUpdate):
    """State (x, t): loop t adds steps[t] to x. Residuals are |steps|, in order."""

    steps: Float[Array, " loops"]

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop."""
        step = self.steps[jnp.minimum(h[1].astype(jnp.int32), len(self.steps) - 1)]
        return h + jnp.stack([step, jnp.ones(())])

    def start(self) -> Float[Array, "*state"]:
        """x = 0 at t = 0."""
        return jnp.zeros(2)

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """|x|, whatever t is."""
        return jnp.abs(x[0])

    def rate(self) -> Float[Array, ""]:
        """Infinite: nothing is certified."""
        return jnp.asarray(jnp.inf)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """Infinite, as for every update without a certificate."""
        return jnp.asarray(jnp.inf)
