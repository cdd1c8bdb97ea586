"""Attention with a Lipschitz constant that is proven in the latent state.

Each layer takes a state h of shape (tokens, width) and what its `inject` made of the input e, of
an attention mask and of additive logits that do not depend on h. All of these are constant inside
the loop, so they are computed once and cost no contraction.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.nn import mixing
from loopwm.nn.infinity import AbstractInfinityLayer
from loopwm.nn.lipschitz import dot_rounding
from loopwm.nn.parametrization import (
    AbstractParametrization,
    array_of,
    in_every_program,
    numbers_of,
)
from loopwm.nn.self_attention import SelfAttention as SelfAttention
from loopwm.nn.self_attention import SelfInput as SelfInput
from loopwm.nn.self_attention import SelfProjections as SelfProjections
from loopwm.stability import Norm, UpperBound, chain, exact_norm


class CrossProjections(AbstractParametrization):
    r"""Query and output projections of `CrossAttention` with $g\|W_O\|_2\|W_Q\|_2 \le c$."""

    free: Float[Array, "2 heads head_width width"]
    """Unconstrained W_Q and W_Oᵀ, shape (2, heads, head width, width)."""
    gain: float = eqx.field(static=True)
    """g: β times both radii."""
    cap: float = eqx.field(static=True)
    """c: the largest product allowed."""

    def value(self) -> Float[Array, "2 heads head_width width"]:
        """The capped pair; W_Oᵀ gives way, W_Q is only kept from being steeper than 1e4."""
        query, output = self.free
        query, size = mixing.capped(query, mixing.stacked_bound(query), mixing.STEEPEST)
        return jnp.stack([query, mixing.capped_output(output, self.gain * size, self.cap)])


class CrossInput(eqx.Module):
    """What `CrossAttention` makes of its input, once."""

    keys: Float[Array, "heads sources head_width"]
    """Keys k, each of length R_k at most."""
    values: Float[Array, "heads sources head_width"]
    """Values v, each of length R_v at most."""
    offset: Float[Array, "_ tokens sources"] | None
    """Logits to be added, −∞ where the mask forbids; None when there are none."""


class CrossAttention(mixing.AbstractAttention):
    r"""Queries from the state, keys and values from the input.

    For each head, with S the soft norm of radius R (`SoftNorm`) and β = 1/√(head width),

    $$q_n = W_Q h_n + b_Q,\quad k_m = S_{R_k}(K e_m),\quad v_m = S_{R_v}(V e_m),\quad
    o_n = \sum_m p_{nm} v_m,\quad p_{n\cdot} = \mathrm{softmax}_m(\beta q_n^\top k_m + c_{nm}),$$

    and the new token is $W_O [o^1_n; \dots; o^H_n] + b_O$.

    Constant. The Jacobian of $o_n$ in $q_n$ is $\beta\,\mathrm{Cov}_p(v, k)$, as
    $\partial p_m = p_m(\ell_m - \bar\ell)$ for a change ℓ of the logits. For unit vectors x and y,
    $x^\top \mathrm{Cov}_p(v,k) y \le \mathrm{sd}_p(x^\top v)\,\mathrm{sd}_p(y^\top k) \le R_v R_k$.
    So all heads together have the Jacobian $W_O\, C\, W_Q$ with stacked projections and a
    block-diagonal C of norm at most $\beta R_v R_k$, and for any factors $d_a > 0$ of the heads

    $$L \le \beta R_k R_v \,\|W_O D^{-1}\|_2 \,\|D\, W_Q\|_2 ,$$

    never above $\beta R_k R_v \|W_O\|_2 (\sum_a \|W_Q^a\|_2^2)^{1/2}$ at D = I. Tokens of h do not
    see one another, so this is the constant in the 2-norm of all entries (and in that of the
    worst token), and it combines with a retention of its own for each channel. Masks and c set
    p to other probabilities, for which the same holds; a token with no source allowed gets o = 0.
    """

    projections: Array | AbstractParametrization
    """W_Q and W_Oᵀ of all heads, shape (2, heads, head width, width)."""
    query_bias: Float[Array, "heads head_width"]
    """b_Q."""
    output_bias: Float[Array, " width"]
    """b_O."""
    source: eqx.nn.Linear
    """K and V of all heads, with biases."""
    key_radius: float = eqx.field(static=True)
    """R_k."""
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
        """Starts from Gaussian weights and query biases, W_Q divided by β R_k R_v.

        Args:
            width: size of a token of h.
            inputs: size of a token of e.
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
        key_free, key_query, key_source = jax.random.split(key, 3)
        free = jax.random.normal(key_free, (2, heads, size, width)) / np.sqrt(width)
        # The cap is shared out evenly: the larger W_Q, the smaller W_O has to be.
        free = free.at[0].divide(self._gain(size))
        self.projections = CrossProjections(free, self._gain(size), cap)
        self.query_bias = jax.random.normal(key_query, (heads, size))
        self.output_bias = jnp.zeros(width)
        self.source = eqx.nn.Linear(inputs, 2 * heads * size, key=key_source)

    def inject(
        self,
        e: Float[Array, "sources inputs"],
        mask: Bool[Array, "tokens sources"] | None = None,
        bias: Float[Array, "heads tokens sources"] | None = None,
    ) -> CrossInput:
        """Keys, values and logits to be added: constant inside the loop, so computed once.

        Args:
            e: the input, shape (sources, inputs).
            mask: True where a token may look at a source, shape (tokens, sources).
            bias: c, logits to be added, shape (heads, tokens, sources).

        Returns:
            What `__call__` takes.
        """
        heads, size = self.query_bias.shape
        rows = jax.vmap(self.source)(e).reshape(len(e), 2, heads, size)
        keys, values = jnp.moveaxis(rows, 0, 2)
        return CrossInput(
            keys=mixing.into_ball(keys, self.key_radius),
            values=mixing.into_ball(values, self.value_radius),
            offset=mixing.offset(mask, bias),
        )

    def __call__(
        self, h: Float[Array, "tokens width"], injected: CrossInput
    ) -> Float[Array, "tokens width"]:
        """One layer.

        Args:
            h: the state, shape (tokens, width).
            injected: from `inject`.

        Returns:
            The new tokens, shape (tokens, width).
        """
        projections = array_of(self.projections)
        weights = self._weights(projections[0], h, injected)
        heads = mixing.einsum("anm,amd->and", weights, injected.values)
        return mixing.einsum("and,adw->nw", heads, projections[1]) + self.output_bias[None]

    def attention_weights(
        self, h: Float[Array, "tokens width"], injected: CrossInput
    ) -> Float[Array, "heads tokens sources"]:
        """p, shape (heads, tokens, sources)."""
        return self._weights(array_of(self.projections)[0], h, injected)

    def constant(self, injected: CrossInput) -> Float[Array, ""]:
        r"""The constant for these keys and values, often far below `lipschitz`, in the 2-norm.

        A covariance does not see the means, so R_k and R_v may be the radii of balls around the
        keys and values wherever they lie.
        """
        query, output = array_of(self.projections)
        size = query.shape[1]
        slack = 1.0 + mixing.soft_rounding(size, query.dtype)
        keys = jnp.minimum(mixing.spread(injected.keys), slack * self.key_radius)
        values = jnp.minimum(mixing.spread(injected.values), slack * self.value_radius)
        gains = mixing.temperature(size) * keys * values
        steepest = mixing.stacked_bound(gains[:, None, None] * query)
        return steepest * mixing.stacked_bound(output) * (1.0 + 1e-5)

    def rounding(self, h: Float[Array, "tokens width"], injected: CrossInput) -> Float[Array, ""]:
        """Upper bound of the rounding error of one call in the 2-norm over all entries."""
        query, output = array_of(self.projections)
        heads, size, width = query.shape
        queries = mixing.frobenius(query)[:, None] * mixing.lengths(h)[None]
        queries = queries + mixing.lengths(self.query_bias)[:, None]
        key, value = (
            jnp.max(mixing.lengths(rows), axis=1, keepdims=True)
            for rows in (injected.keys, injected.values)
        )
        logits = mixing.temperature(size) * key * queries
        errors = 1.01 * dot_rounding(width + size + 4, h.dtype) * logits
        sources = injected.keys.shape[1]
        errors = value * mixing.mixing_rounding(logits, errors, injected.offset, sources)
        return 1.01 * jnp.linalg.norm(
            mixing.readout_rounding(output, self.output_bias, value, errors)
        )

    def lipschitz(self) -> UpperBound:
        """β R_k R_v ‖W_O D⁻¹‖₂ ‖D W_Q‖₂, the smaller of D = I and a D that balances the heads."""
        query, output = np.asarray(numbers_of(self.projections), np.float64)
        gain = UpperBound(self._gain(query.shape[1]))
        inner = np.array([float(exact_norm(head)) for head in query])
        bounds = [
            chain(gain, mixing.stacked_norm(output / d), mixing.stacked_norm(d * query))
            for d in mixing.balances(output, inner)
        ]
        # Up to three factors of all entries: one of W_Q, two of W_O.
        return in_every_program(min(bounds, key=float), self.projections, 6e-6)

    def _gain(self, size: int) -> float:
        """β R_k R_v; computed keys and values may leave their balls by a rounding."""
        slack = 1.0 + 2.1 * mixing.soft_rounding(size, np.float32)
        return mixing.temperature(size) * self.key_radius * self.value_radius * slack

    def _weights(self, query: Array, h: Array, injected: CrossInput) -> Array:
        queries = mixing.einsum("adw,nw->and", query, h) + self.query_bias[:, None]
        logits = mixing.einsum("and,amd->anm", queries, injected.keys)
        return mixing.softmax(mixing.temperature(query.shape[1]) * logits, injected.offset)


class RowStochasticAttention(mixing.AbstractAttention, AbstractInfinityLayer):
    r"""Attention whose logits come from the input alone: every entry becomes an average.

    The channels of h are shared out among the heads; in the channels of head a

    $$h^+_n = \sum_m p^a_{nm} h_m, \qquad
    p^a_{n\cdot} = \mathrm{softmax}_m(\beta (Q^a e_n)^\top K^a e_m + c^a_{nm}).$$

    Constant. The weights are nonnegative and sum to 1 at most, so $|h^+_n - g^+_n|$ is at most
    the largest $|h_m - g_m|$ in each channel: 1 in the ∞-norm, for any Q, K, mask and c. With one
    head the same holds for the 2-norm of the tokens (`Norm.TOKENS`); several heads may copy the
    largest parts of different tokens into one, which makes √heads there. In the 2-norm of all
    entries there is no such bound: all tokens may copy the same one.

    The cells of a grid are tokens in row-major order: states and inputs may have any leading axes.
    """

    query: Float[Array, "heads head_width inputs"]
    """Q."""
    key: Float[Array, "heads head_width inputs"]
    """K."""

    def __init__(
        self, width: int, inputs: int, *, heads: int = 1, head_width: int = 16, key: PRNGKeyArray
    ):
        """Starts from Gaussian queries and keys of variance 1/inputs.

        Args:
            width: channels of h.
            inputs: size of a token of e, of which there are as many as of h.
            heads: number of heads, a divisor of the width.
            head_width: size of queries and keys.
            key: PRNG key.

        Raises:
            UsageError: the heads do not divide the width, or a number is not positive.
        """
        mixing.head_width(width, heads, None)
        mixing.head_width(width, heads, head_width)
        free = jax.random.normal(key, (2, heads, head_width, inputs)) / np.sqrt(inputs)
        self.query, self.key = free[0], free[1]

    def inject(
        self,
        e: Float[Array, "*cells inputs"],
        mask: Bool[Array, "tokens tokens"] | None = None,
        bias: Float[Array, "heads tokens tokens"] | None = None,
    ) -> Float[Array, "heads tokens tokens"]:
        """The weights p: constant inside the loop, so computed once.

        Args:
            e: the input, shape (*cells, inputs).
            mask: True where a token may look at another, shape (tokens, tokens).
            bias: c, logits to be added, shape (heads, tokens, tokens).

        Returns:
            Shape (heads, tokens, tokens).

        Raises:
            UsageError: the input's type is too coarse for so many tokens.
        """
        tokens = e.reshape(-1, e.shape[-1])
        queries = jnp.einsum("adi,ni->and", self.query, tokens)
        keys = jnp.einsum("adi,mi->amd", self.key, tokens)
        logits = mixing.temperature(self.query.shape[1]) * jnp.einsum("and,amd->anm", queries, keys)
        # Less than 1 by the rounding of the softmax, so that no row sums to more.
        margin = 2.0 * dot_rounding(len(tokens) + 8, e.dtype)
        if margin >= 1.0:
            raise UsageError(
                f"{len(tokens)} tokens are too many to be averaged in {e.dtype}; use float32."
            )
        return mixing.softmax(logits, mixing.offset(mask, bias)) * (1.0 - margin)

    def __call__(
        self, h: Float[Array, "*cells width"], injected: Float[Array, "heads tokens tokens"]
    ) -> Float[Array, "*cells width"]:
        """Averages h over tokens.

        Args:
            h: the state, shape (*cells, width).
            injected: the weights from `inject`, shape (heads, tokens, tokens).

        Returns:
            The new tokens, shape (*cells, width).

        Raises:
            UsageError: the heads do not divide the width of h.
        """
        heads, tokens, _ = injected.shape
        mixing.head_width(h.shape[-1], heads, None)
        channels = h.reshape(tokens, heads, -1)
        return mixing.einsum("anm,mac->nac", injected, channels).reshape(h.shape)

    def attention_weights(
        self, h: Float[Array, "*cells width"], injected: Float[Array, "heads tokens tokens"]
    ) -> Float[Array, "heads tokens tokens"]:
        """p, the same for every h, shape (heads, tokens, tokens)."""
        return injected

    def constant(self, injected: Float[Array, "heads tokens tokens"]) -> Float[Array, ""]:
        """1 in the ∞-norm."""
        return jnp.ones((), injected.dtype)

    def rounding(
        self, h: Float[Array, "*cells width"], injected: Float[Array, "heads tokens tokens"]
    ) -> Float[Array, ""]:
        """Upper bound of the rounding error of one call in the ∞-norm."""
        tokens = injected.shape[-1]
        lost = tokens * float(jnp.finfo(h.dtype).tiny)
        return 1.01 * dot_rounding(tokens + 1, h.dtype) * jnp.max(jnp.abs(h)) + lost

    def lipschitz(self, norm: Norm = Norm.INFINITY) -> UpperBound:
        """1 in the ∞-norm, √heads in the norm of the worst token.

        Args:
            norm: ∞ or `Norm.TOKENS`.

        Returns:
            The bound, for every input.

        Raises:
            UsageError: there is no bound in that norm.
        """
        norm = member(Norm, norm, "norm")
        if norm is Norm.INFINITY:
            return UpperBound(1.0, norm)
        if norm is Norm.TOKENS:
            heads = self.query.shape[0]
            return UpperBound(1.0 if heads == 1 else float(np.sqrt(heads)) * (1.0 + 1e-15), norm)
        raise UsageError(
            f"Averages over tokens have no bound in the norm {norm} that holds for any number of "
            "tokens; use Norm.INFINITY or Norm.TOKENS."
        )
