"""Self-attention with a Lipschitz constant that is proven in the norm of the worst token."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.nn import mixing
from loopwm.nn.lipschitz import dot_rounding
from loopwm.nn.parametrization import (
    AbstractParametrization,
    array_of,
    in_every_program,
    numbers_of,
)
from loopwm.stability import Norm, UpperBound, exact_norm, gram_bound


class SelfProjections(AbstractParametrization):
    """Projections of `SelfAttention` with its constant held at c or below."""

    free: Float[Array, "4 heads head_width width"]
    """Unconstrained W_Q, W_K, W_V and W_Oᵀ, shape (4, heads, head width, width)."""
    gain: float = eqx.field(static=True)
    """g: β times both radii."""
    cap: float = eqx.field(static=True)
    """c: the largest constant allowed."""

    def value(self) -> Float[Array, "4 heads head_width width"]:
        """The capped four; W_Oᵀ gives way, the others are only kept from exceeding 1e4."""
        bounds = _spectral_bounds(self.free[:3])[..., None, None]
        inner, bounds = mixing.capped(self.free[:3], bounds, mixing.STEEPEST)
        size = _inner_constant(bounds[..., 0, 0], self.gain)
        return jnp.concatenate([inner, mixing.capped_output(self.free[3], size, self.cap)[None]])


def _spectral_bounds(
    projections: Float[Array, "3 heads head_width width"],
) -> Float[Array, "3 heads"]:
    """Upper bounds of the spectral norms of each head's W_Q, W_K and W_V."""
    return jax.vmap(jax.vmap(lambda w: jnp.asarray(gram_bound(w).value)))(projections)


def _inner_constant(bounds: Float[Array, "3 heads"], gain: float) -> Float[Array, ""]:
    """(Σ L_a²)^(1/2), the constant of all heads side by side, from `_spectral_bounds`."""
    query, key, value = bounds
    squared = jnp.sum(value**2 + (gain * jnp.maximum(query, key)) ** 2)
    nonzero = squared != 0  # NaN counts as nonzero and comes out as NaN
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


class SelfInput(eqx.Module):
    """What `SelfAttention` makes of its input, once."""

    shift: Float[Array, "3 heads tokens head_width"]
    """What is added to the projections that give q, k and v."""
    offset: Float[Array, "_ tokens tokens"] | None
    """Logits to be added, −∞ where the mask forbids; None when there are none."""


class SelfAttention(mixing.AbstractAttention):
    r"""Queries, keys and values all from the state, each inside a ball.

    For each head, with S the soft norm of radius R (`SoftNorm`) and β = 1/√(head width),

    $$q_n = S_{R_k}(W_Q h_n + s^q_n),\quad k_m = S_{R_k}(W_K h_m + s^k_m),\quad
    v_m = S_{R_v}(W_V h_m + s^v_m),$$
    $$o_n = \sum_m p_{nm} v_m,\quad p_{n\cdot} = \mathrm{softmax}_m(\beta q_n^\top k_m + c_{nm}),$$

    with shifts s = U e_n + b from the input; the new token is $W_O[o^1_n; \dots; o^H_n] + b_O$.

    Constant in $\max_n \|h_n\|_2$ (`Norm.TOKENS`). Let every $\|\delta h_m\| \le 1$. One head's
    $o_n$ changes by three terms, with expectation and covariance over m under $p_{n\cdot}$:
    $E[\delta v]$, $\beta\,\mathrm{Cov}(v, k)\,\delta q_n$ and
    $\beta\,\mathrm{Cov}(v, q_n^\top\delta k)$. The soft norm at x has the size $R t$ and slopes of
    at most $\sqrt{1-t^2}$, with $t^2 = \|x\|^2/(R^2+\|x\|^2)$: it is never large and steep.
    With $\tau^2 = E[t_v^2]$, $b^2 = E[t_k^2]$ and $a = t_{q_n}$, the inequalities of Jensen and
    Cauchy bound the terms by $\|W_V\|\sqrt{1-\tau^2}$, by
    $\beta R_v\tau \cdot R_k b \cdot \|W_Q\|\sqrt{1-a^2}$ and by
    $\beta R_v\tau \cdot R_k a \cdot \|W_K\|\sqrt{1-b^2}$. As
    $b\sqrt{1-a^2} + a\sqrt{1-b^2} \le 1$ (the sine of a sum of angles) and
    $x\sqrt{1-\tau^2} + y\tau \le \sqrt{x^2+y^2}$, the head has the constant

    $$L_a = \sqrt{\|W_V^a\|_2^2 + (\beta R_v R_k \max(\|W_Q^a\|_2, \|W_K^a\|_2))^2},$$

    below the sum $\|W_V\| + \beta R_v R_k(\|W_Q\| + \|W_K\|)$ that the slopes alone would give.
    Heads may look at different tokens, so all together have
    $L \le \|W_O D^{-1}\|_2 (\sum_a d_a^2 L_a^2)^{1/2}$ for any factors $d_a > 0$. Each token of the
    result sees all tokens of h, so the retention has to be one number for all channels.
    """

    projections: Array | AbstractParametrization
    """W_Q, W_K, W_V and W_Oᵀ of all heads, shape (4, heads, head width, width)."""
    output_bias: Float[Array, " width"]
    """b_O."""
    injection: eqx.nn.Linear
    """U and b of all heads, for q, k and v."""
    heads: int = eqx.field(static=True)
    """Number of heads."""
    key_radius: float = eqx.field(static=True)
    """R_k, of queries and keys."""
    value_radius: float = eqx.field(static=True)
    """R_v."""

    def __init__(
        self,
        width: int,
        inputs: int,
        *,
        heads: int = 4,
        head_width: int | None = None,
        key_radius: float | None = None,
        value_radius: float | None = None,
        cap: float = 1.0,
        key: PRNGKeyArray,
    ):
        """Starts from Gaussian weights, W_Q and W_K divided by β R_k R_v.

        Args:
            width: size of a token of h.
            inputs: size of a token of e, of which there are as many as of h.
            heads: number of heads.
            head_width: size of q, k and v of one head; width / heads when left out.
            key_radius: R_k, √(head width) when left out.
            value_radius: R_v, √(head width) when left out.
            cap: the largest Lipschitz constant allowed.
            key: PRNG key.

        Raises:
            UsageError: the heads do not divide the width, or a number is not positive.
        """
        size = mixing.head_width(width, heads, head_width)
        self.key_radius, self.value_radius = mixing.radii(size, key_radius, value_radius)
        mixing.check_positive("cap", cap)
        self.heads = heads
        key_free, key_injection = jax.random.split(key)
        free = jax.random.normal(key_free, (4, heads, size, width)) / np.sqrt(width)
        # Logits then move a head's mean as much as its values do.
        free = free.at[:2].divide(self._gain(size))
        self.projections = SelfProjections(free, self._gain(size), cap)
        self.output_bias = jnp.zeros(width)
        self.injection = eqx.nn.Linear(inputs, 3 * heads * size, key=key_injection)

    def inject(
        self,
        e: Float[Array, "tokens inputs"],
        mask: Bool[Array, "tokens tokens"] | None = None,
        bias: Float[Array, "heads tokens tokens"] | None = None,
    ) -> SelfInput:
        """Shifts and logits to be added: constant inside the loop, so computed once.

        Args:
            e: the input, shape (tokens, inputs).
            mask: True where a token may look at another, shape (tokens, tokens).
            bias: c, logits to be added, shape (heads, tokens, tokens).

        Returns:
            What `__call__` takes.
        """
        rows = jax.vmap(self.injection)(e).reshape(len(e), 3, self.heads, -1)
        return SelfInput(shift=jnp.moveaxis(rows, 0, 2), offset=mixing.offset(mask, bias))

    def __call__(
        self, h: Float[Array, "tokens width"], injected: SelfInput
    ) -> Float[Array, "tokens width"]:
        """One layer.

        Args:
            h: the state, shape (tokens, width).
            injected: from `inject`.

        Returns:
            The new tokens, shape (tokens, width).
        """
        projections = array_of(self.projections)
        weights, values = self._mix(projections, h, injected)
        heads = mixing.einsum("anm,amd->and", weights, values)
        return mixing.einsum("and,adw->nw", heads, projections[3]) + self.output_bias[None]

    def attention_weights(
        self, h: Float[Array, "tokens width"], injected: SelfInput
    ) -> Float[Array, "heads tokens tokens"]:
        """p, shape (heads, tokens, tokens)."""
        return self._mix(array_of(self.projections), h, injected)[0]

    def constant(self, injected: SelfInput) -> Float[Array, ""]:
        """‖W_O‖₂ (Σ L_a²)^(1/2), the same for every input, in the norm of the worst token."""
        projections = array_of(self.projections)
        gain = self._gain(projections.shape[2])
        inner = _inner_constant(_spectral_bounds(projections[:3]), gain)
        return inner * mixing.stacked_bound(projections[3]) * (1.0 + 1e-5)

    def rounding(self, h: Float[Array, "tokens width"], injected: SelfInput) -> Float[Array, ""]:
        """Upper bound of the rounding error of one call, of the worst token in the 2-norm."""
        projections = array_of(self.projections)
        size, width = projections.shape[2:]
        # Bounds of length and error of q, k and v, each of shape (heads, tokens).
        before = mixing.frobenius(projections[:3])[..., None] * mixing.lengths(h)[None, None]
        before = 1.01 * (before + mixing.lengths(injected.shift))
        soft = mixing.soft_rounding(size, h.dtype)
        radii = jnp.asarray([self.key_radius, self.key_radius, self.value_radius], h.dtype)
        sizes = jnp.minimum(before, radii[:, None, None] * (1.0 + soft))
        query, key, value = 1.01 * (dot_rounding(width + 1, h.dtype) * before + soft * sizes)
        query_size = sizes[0]
        key_size, value_size, key, value = (
            jnp.max(x, axis=1, keepdims=True) for x in (sizes[1], sizes[2], key, value)
        )
        beta = mixing.temperature(size)
        logits = beta * query_size * key_size
        errors = beta * (query * key_size + query_size * key + query * key)
        errors = 1.01 * (errors + dot_rounding(size + 4, h.dtype) * logits)
        mixed = mixing.mixing_rounding(logits, errors, injected.offset, len(h))
        errors = value + value_size * mixed
        return jnp.max(
            mixing.readout_rounding(projections[3], self.output_bias, value_size, errors)
        )

    def lipschitz(self) -> UpperBound:
        """‖W_O D⁻¹‖₂ (Σ d²L²)^(1/2), the smaller of D = I and a D that balances the heads."""
        *inner, output = np.asarray(numbers_of(self.projections), np.float64)
        norms = [np.array([float(exact_norm(head)) for head in heads]) for heads in inner]
        query, key, value = norms
        steep = self._gain(output.shape[1]) * np.maximum(query, key)
        each = np.hypot(value, steep)
        bounds = [
            float(mixing.stacked_norm(output / d)) * np.linalg.norm(d[:, 0, 0] * each)
            for d in mixing.balances(output, each)
        ]
        # A step of float64 rounding for each operation is far below the margin.
        bound = UpperBound(float(min(bounds)) * (1.0 + 1e-14 * len(each)), Norm.TOKENS)
        # Up to three factors of all entries: one of the first three projections, two of W_O.
        return in_every_program(bound, self.projections, 6e-6)

    def _gain(self, size: int) -> float:
        """β R_v R_k."""
        return mixing.temperature(size) * self.key_radius * self.value_radius

    def _mix(self, projections: Array, h: Array, injected: SelfInput) -> tuple[Array, Array]:
        """p of shape (heads, tokens, tokens) and v of shape (heads, tokens, head width)."""
        before = mixing.einsum("padw,nw->pand", projections[:3], h) + injected.shift
        queries = mixing.into_ball(before[0], self.key_radius)
        keys = mixing.into_ball(before[1], self.key_radius)
        logits = mixing.einsum("and,amd->anm", queries, keys)
        beta = mixing.temperature(projections.shape[2])
        return (
            mixing.softmax(beta * logits, injected.offset),
            mixing.into_ball(before[2], self.value_radius),
        )
