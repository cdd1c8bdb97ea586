"""Noise whose power falls with frequency."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


@functools.cache
def _filter(beta: float, steps: int) -> Float[np.ndarray, "steps steps"]:
    """The circulant matrix that colours white noise, shape (steps, steps)."""
    # In units of the lowest: a common factor is lost in what follows, and might be infinite.
    frequency = np.maximum(np.arange(steps // 2 + 1), 1.0)
    kernel = np.fft.irfft(frequency ** (-0.5 * beta), n=steps)
    kernel /= np.linalg.norm(kernel)
    place = np.arange(steps)
    return kernel[(place[:, None] - place) % steps].astype(np.float32)


def coloured_noise(
    beta: float, shape: tuple[int, int, int], *, key: PRNGKeyArray
) -> Float[Array, "samples horizon action"]:
    r"""Gaussian sequences with a power-law spectrum, of variance 1 at every step.

    White noise $w \sim N(0, I)$ of n steps is filtered in the frequency domain. With F the discrete
    Fourier transform and $f_k = \min(k, n - k) / n$,

    $$x = a\, F^{-1} \mathrm{diag}\big(\max(f_k, 1/n)^{-\beta/2}\big) F w, \qquad
      E|(Fx)_k|^2 \propto \max(f_k, 1/n)^{-\beta},$$

    the constant part, whose power law would be infinite, taking the power of the lowest
    frequency, and a bringing the variance to 1. β = 0 is white noise; the larger β, the longer a
    direction is kept. The filter is a constant matrix, n being small.

    Source: Timmer and König 1995, "On generating power law noise", for the spectrum; Pinneri et al.
        2020 (arXiv 2008.06389), section 3.1, for its use in planning. The filter is ours.

    Args:
        beta: exponent β of the power law, at least 0.
        shape: numbers of sequences, of steps n, and of entries of an action.
        key: PRNG key.

    Returns:
        Sequences independent of one another and entry by entry, shape (samples, horizon, action).
    """
    white = jax.random.normal(key, shape)
    return jnp.einsum("tk,ska->sta", _filter(beta, shape[1]), white)
