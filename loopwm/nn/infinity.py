r"""Layers that do not expand the ∞-norm, for grids and tokens.

States have shape (*cells, channels), where the cells are a grid of any rank or a row of tokens,
and $\|h\|_\infty$ is the largest absolute entry. A map does not expand it when each entry of its
result is a maximum, a minimum or a sub-average of entries: sums of |weights| decide, and passing a
signal on to a neighbour costs nothing, while in the 2-norm a copy to n cells would cost √n.
Whatever depends on the input e alone is free.
"""

import abc
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from loopwm.errors import UsageError
from loopwm.nn.parametrization import AbstractParametrization, array_of
from loopwm.stability import Norm, UpperBound


def over_cells(
    matrix: Float[Array, "outputs inputs"], x: Float[Array, "*cells inputs"]
) -> Float[Array, "*cells outputs"]:
    """Matrix times the channels of every cell, in full float32 (see `rounding`)."""
    return jnp.tensordot(x, matrix, axes=(-1, 1), precision=jax.lax.Precision.HIGHEST)


def affine_over_cells(
    matrix: Float[Array, "outputs inputs"],
    bias: Float[Array, " outputs"],
    x: Float[Array, "*cells inputs"],
) -> Float[Array, "*cells outputs"]:
    """Matrix times the channels of every cell, plus the same bias in each."""
    product = over_cells(matrix, x)
    return product + jnp.broadcast_to(bias, product.shape)


def size_of(x: Float[Array, "*cells channels"]) -> Float[Array, ""]:
    """‖x‖_∞."""
    return jnp.max(jnp.abs(x))


class AbstractInfinityLayer(eqx.Module):
    """A layer y = f(h, e) whose Lipschitz constant in h is known in the ∞-norm.

    `inject` computes everything that depends on e alone, once, outside the loop.
    """

    @abc.abstractmethod
    def inject(self, e: Float[Array, "*cells inputs"]) -> PyTree:
        """What the layer needs of the input e of shape (*cells, inputs)."""

    @abc.abstractmethod
    def __call__(
        self, h: Float[Array, "*cells channels"], injected: PyTree
    ) -> Float[Array, "*cells outputs"]:
        """The layer at h of shape (*cells, channels)."""

    @abc.abstractmethod
    def constant(self, injected: PyTree) -> Float[Array, ""]:
        """Upper bound of the constant in h for this input, in working precision, rounded up."""

    @abc.abstractmethod
    def rounding(self, h: Float[Array, "*cells channels"], injected: PyTree) -> Float[Array, ""]:
        """Upper bound in the ∞-norm of the rounding error of one call at h."""

    @abc.abstractmethod
    def lipschitz(self) -> UpperBound:
        """Upper bound of the constant for every input, from float64."""


class AbstractSelecting(AbstractInfinityLayer):
    """A layer that picks entries of h: constant 1, no weights, no rounding."""

    def inject(self, e: Float[Array, "*cells inputs"]) -> None:
        """Nothing: the input plays no part."""
        return None

    def constant(self, injected: None) -> Float[Array, ""]:
        """1."""
        return jnp.ones(())

    def rounding(self, h: Float[Array, "*cells channels"], injected: None) -> Float[Array, ""]:
        """0: entries are compared and copied."""
        return jnp.zeros((), h.dtype)

    def lipschitz(self) -> UpperBound:
        """1."""
        return UpperBound(1.0, Norm.INFINITY)


class NeighbourExtremum(AbstractSelecting):
    r"""Maximum (or minimum) over a cell and its neighbours along every grid axis.

    $$y_{i,c} = \max_{j \in N(i) \cup \{i\}} h_{j,c}.$$

    On a plane N(i) are the four cells that share an edge with i. A neighbour that would lie
    outside is left out (or, if periodic, found on the other side), so every entry of the result
    is a maximum over entries of h. For finite sets,
    $|\max_j x_j - \max_j y_j| \le \max_j |x_j - y_j|$: the constant is 1.
    """

    kind: Literal["maximum", "minimum"] = eqx.field(static=True, default="maximum")
    """Which of the two."""
    periodic: bool = eqx.field(static=True, default=False)
    """Whether opposite edges meet, as on a ring or a torus."""

    def __check_init__(self):
        """Refuses any other kind."""
        if self.kind not in ("maximum", "minimum"):
            raise UsageError(f"kind is {self.kind!r}; use 'maximum' or 'minimum'.")

    def __call__(
        self, h: Float[Array, "*cells channels"], injected: None = None
    ) -> Float[Array, "*cells channels"]:
        """Maps h of shape (*cells, channels) to the same shape."""
        choose = jnp.maximum if self.kind == "maximum" else jnp.minimum
        y = h
        for axis in range(h.ndim - 1):
            count = h.shape[axis]
            if self.periodic:
                before, after = jnp.roll(h, 1, axis), jnp.roll(h, -1, axis)
            else:
                # A cell at the edge stands in for its missing neighbour: it is in the set anyway.
                first = jax.lax.slice_in_dim(h, 0, 1, axis=axis)
                last = jax.lax.slice_in_dim(h, count - 1, count, axis=axis)
                inner = jax.lax.slice_in_dim(h, 0, count - 1, axis=axis)
                outer = jax.lax.slice_in_dim(h, 1, count, axis=axis)
                before = jnp.concatenate([first, inner], axis)
                after = jnp.concatenate([outer, last], axis)
            y = choose(y, choose(before, after))
        return y


class MaxMin(AbstractSelecting):
    r"""Sorts pairs of channels: $(a, b) \mapsto (\max(a,b), \min(a,b))$.

    Channel c of the first half is paired with channel c of the second half. Each entry of the
    result is an extremum of two entries of h, so the constant is 1 in the ∞-norm (and, as the
    pair is only permuted, the map keeps every entry, unlike ReLU).

    Source: Anil et al. 2019, "Sorting out Lipschitz function approximation" (arXiv 1811.05381),
        GroupSort with groups of two.
    """

    def __call__(
        self, h: Float[Array, "*cells channels"], injected: None = None
    ) -> Float[Array, "*cells channels"]:
        """Maps h of shape (*cells, channels), an even number of channels, to the same shape.

        Raises:
            UsageError: the number of channels is odd.
        """
        if h.shape[-1] % 2:
            raise UsageError(f"MaxMin pairs channels and got {h.shape[-1]}; give an even number.")
        a, b = jnp.split(h, 2, axis=-1)
        return jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1)


class L1Cap(AbstractParametrization):
    r"""A matrix whose rows are held at $\sum_j |W_{ij}| \le c$ by capping, each by itself.

    $W_{ij} = V_{ij} \min(1, c/\sum_k |V_{ik}|)$. A row inside the cap is left alone.
    """

    free: Float[Array, "rows columns"]
    """V, unconstrained, shape (rows, columns)."""
    cap: float = eqx.field(static=True, default=1.0)
    """c: the largest sum of absolute values of a row, positive."""

    def value(self) -> Float[Array, "rows columns"]:
        """The capped matrix, shape (rows, columns)."""
        # The margin covers the rounding of the sum, of the division and of the product.
        margin = (self.free.shape[1] + 4) * float(jnp.finfo(self.free.dtype).eps)
        limit = self.cap * max(0.0, 1.0 - margin)
        sums = jnp.sum(jnp.abs(self.free), axis=1, keepdims=True)
        over = sums > limit
        factor = jnp.where(over, limit / jnp.where(over, sums, 1.0), 1.0)
        return self.free * jnp.broadcast_to(factor, self.free.shape)


MixInput = tuple[Float[Array, "*cells outputs"], Float[Array, "*cells outputs"] | None]
"""Gates, and what is added where there is something."""


class L1CappedMix(AbstractInfinityLayer):
    r"""Mixes the channels of a cell, with gates and an additive term from the input.

    $$y = g(e) \odot W h + U e + b, \qquad g(e) = \mathrm{clip}(G e + a, -1, 1), \qquad
    \sum_j |W_{ij}| \le 1,$$

    at every cell with the same weights. The ∞-norm of a matrix is its largest row sum of absolute
    values, so the constant is $\max_i |g_i| \sum_j |W_{ij}| \le 1$ for every e. U, b, G and a are
    free, and U and b may be left out.
    """

    weight: Array | AbstractParametrization
    """W, shape (outputs, channels)."""
    injection: Float[Array, "outputs inputs"] | None
    """U, shape (outputs, inputs); None without additive term."""
    bias: Float[Array, " outputs"] | None
    """b, shape (outputs,); None without additive term."""
    gate: Float[Array, "outputs inputs"]
    """G, shape (outputs, inputs)."""
    gate_bias: Float[Array, " outputs"]
    """a, shape (outputs,)."""

    def __init__(
        self, channels: int, outputs: int, inputs: int, *, additive: bool = True, key: PRNGKeyArray
    ):
        """Starts near copying channel i mod `channels` to output i, with gates that let it pass.

        Args:
            channels: channels of h.
            outputs: channels of y.
            inputs: channels of e.
            additive: whether there is a term U e + b, which a loop adds to itself again and again.
            key: PRNG key.
        """
        key_weight, key_injection, key_gate = jax.random.split(key, 3)
        copy = jnp.eye(channels)[jnp.arange(outputs) % channels]
        noise = jax.random.normal(key_weight, (outputs, channels)) / channels
        self.weight = L1Cap(copy + 0.5 * noise)
        scale = 1.0 / np.sqrt(inputs)
        drawn = scale * jax.random.normal(key_injection, (outputs, inputs))
        self.injection = drawn if additive else None
        self.bias = jnp.zeros(outputs) if additive else None
        self.gate = 0.5 * scale * jax.random.normal(key_gate, (outputs, inputs))
        self.gate_bias = jnp.full(outputs, 0.9)

    def inject(self, e: Float[Array, "*cells inputs"]) -> MixInput:
        """g(e) and U e + b, each of shape (*cells, outputs); None in place of a term left out."""
        gates = jnp.clip(affine_over_cells(self.gate, self.gate_bias, e), -1.0, 1.0)
        if self.injection is None or self.bias is None:
            return gates, None
        return gates, affine_over_cells(self.injection, self.bias, e)

    def __call__(
        self,
        h: Float[Array, "*cells channels"],
        injected: MixInput,
    ) -> Float[Array, "*cells outputs"]:
        """Maps h of shape (*cells, channels) to shape (*cells, outputs)."""
        gates, added = injected
        mixed = gates * over_cells(array_of(self.weight), h)
        return mixed if added is None else mixed + added

    def constant(self, injected: MixInput) -> Float[Array, ""]:
        """max |g_i| Σ_j |W_ij| over cells and channels."""
        sums = jnp.sum(jnp.abs(array_of(self.weight)), axis=1)
        largest = jnp.max(jnp.abs(injected[0]), axis=tuple(range(injected[0].ndim - 1)))
        margin = (array_of(self.weight).shape[1] + 4) * jnp.finfo(sums.dtype).eps
        return jnp.max(largest * sums) * (1.0 + margin)

    def rounding(
        self,
        h: Float[Array, "*cells channels"],
        injected: MixInput,
    ) -> Float[Array, ""]:
        r"""$\gamma_{n+8}(L\|h\|_\infty + \|Ue+b\|_\infty)$ with $\gamma_k = ku/(1-ku)$.

        A dot product of n channels errs by $\gamma_n$ of its sum of absolute values (Higham,
        lemma 3.1), the gate and the sum by one rounding each; the rest covers the rounding of the
        bound itself, for up to 5,000 channels. A floor covers products that vanish.
        """
        channels = h.shape[-1]
        count = (channels + 8) * 0.5 * float(jnp.finfo(h.dtype).eps)
        floor = (channels + 4) * float(jnp.finfo(h.dtype).tiny)
        added = injected[1]
        size = self.constant(injected) * size_of(h)
        size = size if added is None else size + size_of(added)
        return count / (1.0 - count) * size + floor

    def lipschitz(self) -> UpperBound:
        """max_i Σ_j |W_ij|, in float64 from the weights as they are, rounded up."""
        weight = np.abs(np.asarray(array_of(self.weight), np.float64))
        largest = float(weight.sum(axis=1).max())
        margin = weight.shape[1] * float(np.finfo(np.float64).eps)
        return UpperBound(largest * (1.0 + margin), Norm.INFINITY)


class Beside(AbstractInfinityLayer):
    r"""Keeps the state beside a layer's result: $y = [h, f(h, e)]$ in the channels.

    In the ∞-norm two parts side by side are as large as the larger one: the constant is
    max(1, L), where a residual sum h + f would have 1 + L.
    """

    layer: AbstractInfinityLayer
    """f."""

    def inject(self, e: Float[Array, "*cells inputs"]) -> PyTree:
        """What f needs of e."""
        return self.layer.inject(e)

    def __call__(
        self, h: Float[Array, "*cells channels"], injected: PyTree
    ) -> Float[Array, "*cells outputs"]:
        """Maps h of shape (*cells, channels) to the channels of h and of f(h, e)."""
        return jnp.concatenate([h, self.layer(h, injected)], axis=-1)

    def constant(self, injected: PyTree) -> Float[Array, ""]:
        """max(1, L)."""
        return jnp.maximum(1.0, self.layer.constant(injected))

    def rounding(self, h: Float[Array, "*cells channels"], injected: PyTree) -> Float[Array, ""]:
        """That of f."""
        return self.layer.rounding(h, injected)

    def lipschitz(self) -> UpperBound:
        """max(1, L)."""
        bound = self.layer.lipschitz()
        return UpperBound(max(1.0, float(bound)), bound.norm, bound.level)
