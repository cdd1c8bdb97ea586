"""Running normalisation of observations, kept with the agent."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Normalizer(eqx.Module):
    """Running mean and variance per entry, as Chan, Golub and LeVeque merge them."""

    mean: Float[Array, " observation"] | Float[np.ndarray, " observation"]
    """Mean, shape (observation,)."""
    variance: Float[Array, " observation"] | Float[np.ndarray, " observation"]
    """Variance, shape (observation,), in squared units of the observation."""
    count: float | Float[Array, ""] | Float[np.ndarray, ""]
    """Observations seen."""
    clip: float = eqx.field(static=True, default=10.0)
    """Normalised entries are clipped to ± this many standard deviations."""

    @classmethod
    def create(cls, size: int) -> "Normalizer":
        """Mean 0 and variance 1 before anything was seen."""
        return cls(mean=np.zeros(size), variance=np.ones(size), count=np.zeros(()))

    def update(self, batch: Float[np.ndarray, "batch observation"]) -> "Normalizer":
        """Merges a batch of shape (batch, observation); on the host, in float64."""
        size = batch.shape[0]
        if size == 0:
            return self
        mean, variance = batch.mean(0, dtype=np.float64), batch.var(0, dtype=np.float64)
        count = float(self.count)
        total = count + size
        delta = mean - np.asarray(self.mean)
        merged = (
            np.asarray(self.variance) * count + variance * size + delta**2 * (count * size / total)
        ) / total
        return Normalizer(
            mean=np.asarray(self.mean) + delta * (size / total),
            variance=merged,
            count=np.asarray(total),
            clip=self.clip,
        )

    def __call__(self, observation: Float[Array, " observation"]) -> Float[Array, " observation"]:
        """Normalises one observation of shape (observation,); a constant entry becomes 0."""
        mean = jnp.asarray(self.mean, jnp.float32)
        scale = jnp.sqrt(jnp.asarray(self.variance, jnp.float32) + 1e-8)
        return jnp.clip((observation - mean) / scale, -self.clip, self.clip)
