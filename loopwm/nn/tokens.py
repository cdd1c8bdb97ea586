"""Layers of looped blocks for tokens: attention beside an identity path, layers by token."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.nn import mixing
from loopwm.nn.attention import CrossAttention, SelfAttention
from loopwm.nn.lipschitz import AbstractInjected, SoftNorm
from loopwm.stability import Norm, UpperBound, norms

_SIZES = {Norm.TWO: norms.two, Norm.TOKENS: norms.tokens}


def _norm(given: Norm) -> Norm:
    return member(Norm, given, "norm")


class AttentionLayer(AbstractInjected):
    r"""Attention behind a soft norm, mixed with the identity: constant 1 when A has it.

    $$y^+ = (1-s)\, y + s\, A(S(y), e), \qquad s = \sigma(l) \in (0, 1),$$

    with S the soft norm of each token (`SoftNorm`, 1-Lipschitz in each token, so in the 2-norm of
    all entries and in that of the worst token) and a learned number l. With L the constant of A,
    the layer has $(1-s) + sL \le \max(1, L)$, in the norm in which L holds: the 2-norm of all
    entries for `CrossAttention`, that of the worst token (`Norm.TOKENS`) for `SelfAttention`.
    """

    attention: CrossAttention | SelfAttention
    """A."""
    soft: SoftNorm
    """S."""
    logit: Float[Array, ""]
    """l."""
    norm: Norm = eqx.field(static=True, converter=_norm)
    """Norm of the constant and of `rounding`: 2, or 2,inf."""

    def inject(self, e: Float[Array, "tokens inputs"]) -> PyTree:
        """What A needs of e, shape (tokens, inputs)."""
        return self.attention.inject(e)

    def __call__(
        self, y: Float[Array, "tokens width"], injected: PyTree
    ) -> Float[Array, "tokens width"]:
        """One layer: y to y⁺, both of shape (tokens, width)."""
        share = jax.nn.sigmoid(self.logit)
        return (1.0 - share) * y + share * self.attention(jax.vmap(self.soft)(y), injected)

    def rounding(self, y: Float[Array, "tokens width"], injected: PyTree) -> Float[Array, ""]:
        r"""Upper bound in `norm` of the rounding error of one call.

        A carries the error of S, which is that of `soft_rounding` times its size; the two products
        and the sum add some units of what they are made of.
        """
        size, unit = _SIZES[self.norm], 0.5 * float(jnp.finfo(y.dtype).eps)
        share, inside = jax.nn.sigmoid(self.logit), jax.vmap(self.soft)(y)
        width = y.shape[-1]
        carried = 1.01 * mixing.soft_rounding(width, y.dtype) * size(inside)
        after = size(self.attention(inside, injected))
        error = carried + self.attention.rounding(inside, injected)
        # A sum of squares loses up to its number of terms in roundings, and what is tiny.
        slack = 1.0 + (y.size + 16) * unit
        floor = 4.0 * (y.size * float(jnp.finfo(y.dtype).tiny)) ** 0.5
        return slack * (share * error + 4.0 * unit * (size(y) + after + error)) + floor

    def lipschitz(self) -> UpperBound:
        """max(1, L), with L of the attention.

        Raises:
            UsageError: L does not hold in `norm`.
        """
        bound = self.attention.lipschitz()
        # A constant of cross-attention in the 2-norm holds for each token, as they do not meet.
        fitting = {Norm.TWO, Norm.TOKENS} if self.norm is Norm.TOKENS else {Norm.TWO}
        _check_norm(self.attention, bound, fitting)
        return UpperBound(max(1.0, float(bound)), self.norm, bound.level)


def _check_norm(layer: eqx.Module, bound: UpperBound, fitting: set[Norm]) -> None:
    if bound.norm not in fitting:
        raise UsageError(
            f"{type(layer).__name__} has its constant in the {bound.norm}-norm, and here it is "
            f"needed in the {'- or '.join(sorted(fitting))}-norm; use a layer, or a norm, that "
            "fits the other."
        )


class TokenWise(AbstractInjected):
    """A layer for vectors, applied to every token on its own.

    Its constant is that of the layer, in the 2-norm of all entries and in that of the worst token.
    """

    layer: AbstractInjected
    """The layer for vectors, its constant in the 2-norm."""
    norm: Norm = eqx.field(static=True, converter=_norm)
    """Norm of the claim and of `rounding`: 2, or 2,inf."""

    def inject(self, e: Float[Array, "tokens inputs"]) -> PyTree:
        """What the layer needs of e at every token."""
        return jax.vmap(self.layer.inject)(e)

    def __call__(
        self, y: Float[Array, "tokens width"], injected: PyTree
    ) -> Float[Array, "tokens width"]:
        """One layer: y to y⁺, both of shape (tokens, width)."""
        return jax.vmap(self.layer)(y, injected)

    def rounding(self, y: Float[Array, "tokens width"], injected: PyTree) -> Float[Array, ""]:
        """Upper bound in `norm` of the rounding error of one call."""
        return _SIZES[self.norm](jax.vmap(self.layer.rounding)(y, injected)[:, None])

    def lipschitz(self) -> UpperBound:
        """That of the layer, with which either norm of all tokens grows at most.

        Raises:
            UsageError: the layer's constant is not one of the 2-norm of its vectors.
        """
        bound = self.layer.lipschitz()
        _check_norm(self.layer, bound, {Norm.TWO})
        return UpperBound(float(bound), self.norm, bound.level)
