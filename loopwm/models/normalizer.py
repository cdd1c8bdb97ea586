"""Running normalisation of observations, kept with the agent."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from loopwm.errors import RunFailure

LARGEST = 1e18
"""Entries beyond it in size are refused: the square of 2e19 is more than float32 can hold."""


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
    def create(
        cls,
        size: int,
        offset: Float[np.ndarray, " observation"] | None = None,
        width: Float[np.ndarray, " observation"] | None = None,
    ) -> "Normalizer":
        """Before anything was seen: mean `offset` and deviation `width`, 0 and 1 if left out."""
        return cls(
            mean=np.zeros(size) if offset is None else offset,
            variance=np.ones(size) if width is None else width**2,
            count=np.zeros(()),
        )

    def update(
        self,
        batch: Float[np.ndarray, "batch observation"],
        running: Bool[np.ndarray, " observation"] | None = None,
    ) -> "Normalizer":
        """Merges a batch; on the host, in float64.

        Args:
            batch: observations, shape (batch, observation).
            running: entries whose mean and variance follow what is seen; all when left out.

        Returns:
            The normaliser that has seen the batch too.

        Raises:
            RunFailure: an entry that follows what is seen is larger than `LARGEST`, or NaN.
        """
        size = batch.shape[0]
        if size == 0:
            return self
        unfit = ~(np.abs(batch) <= LARGEST) & (True if running is None else running)
        if unfit.any():
            raise RunFailure(
                f"An observation holds {batch[unfit][0]:g} at entry {np.nonzero(unfit)[1][0]}, but "
                f"entries beyond ±{LARGEST:g} cannot be normalised in float32; use "
                "gymnasium.wrappers.TransformObservation to scale or to clip them."
            )
        mean, variance = batch.mean(0, dtype=np.float64), batch.var(0, dtype=np.float64)
        count = float(self.count)
        total = count + size
        delta = mean - np.asarray(self.mean)
        merged = (
            np.asarray(self.variance) * count + variance * size + delta**2 * (count * size / total)
        ) / total
        moved = np.asarray(self.mean) + delta * (size / total)
        if running is not None:
            moved = np.where(running, moved, self.mean)
            merged = np.where(running, merged, self.variance)
        return Normalizer(
            mean=moved,
            variance=merged,
            count=np.asarray(total),
            clip=self.clip,
        )

    def __call__(
        self, observation: Float[Array, " observation"] | UInt8[Array, " observation"]
    ) -> Float[Array, " observation"]:
        """Normalises one observation of shape (observation,); a constant entry becomes 0."""
        mean, scale = self._affine()
        return jnp.clip((observation - mean) / scale, -self.clip, self.clip)

    def restore(self, normalised: Float[Array, " observation"]) -> Float[Array, " observation"]:
        """The observation of shape (observation,) that has this normalised one."""
        mean, scale = self._affine()
        return mean + scale * normalised

    def _affine(self) -> tuple[Array, Array]:
        scale = jnp.sqrt(jnp.asarray(self.variance, jnp.float32) + 1e-8)
        return jnp.asarray(self.mean, jnp.float32), scale
