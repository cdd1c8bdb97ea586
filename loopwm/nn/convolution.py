"""Convolutions that declare a Lipschitz constant: of the operator, on one grid or on every grid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.nn.lipschitz import AbstractInjected, AbstractLipschitz, dot_rounding
from loopwm.nn.parametrization import (
    AbstractParametrization,
    array_of,
    in_every_program,
    numbers_of,
)
from loopwm.nn.residual import AbstractResidual
from loopwm.stability import UpperBound, chain, exact_norm, residual
from loopwm.stability.convolution import (
    Grid,
    Padding,
    convolution_gram_bound,
    convolution_norm,
)


def _padding(given: Padding) -> Padding:
    return member(Padding, given, "padding")


class ConvolutionCap(AbstractParametrization):
    r"""A kernel held at $\|W\|_2 \le c$ by capping: $W \min(1, c/\hat\sigma)$.

    The norm is that of the convolution as an operator, and $\hat\sigma$ the upper bound by Gram
    iteration at every frequency, so the cap holds at every step of training; a kernel already
    inside it is left alone. See `loopwm.stability.convolution` for the proofs.
    """

    free: Float[Array, "outputs inputs *window"]
    """Unconstrained kernel."""
    cap: float = eqx.field(static=True)
    """c: the largest operator norm allowed."""
    grid: Grid | None = eqx.field(static=True, default=None)
    """The only grid on which the cap has to hold; None for every grid, at some 1 % of the norm."""
    padding: Padding = eqx.field(static=True, default=Padding.ZEROS, converter=_padding)
    """What is read beyond the edge; of no consequence without a grid."""
    iterations: int = eqx.field(static=True, default=6)
    """Gram steps."""

    def value(self) -> Float[Array, "outputs inputs *window"]:
        r"""The capped kernel, shape (outputs, inputs, \*window)."""
        bound = convolution_gram_bound(
            self.free, self.grid, self.padding, iterations=self.iterations
        ).value
        over = bound > self.cap
        return self.free * jnp.where(over, self.cap / jnp.where(over, bound, 1.0), 1.0)


class CappedConvolution(AbstractLipschitz):
    r"""$y = W * x + b$ on the grid of x, with $\|W *\|_2 \le c$ at every step of training."""

    weight: Array | AbstractParametrization
    r"""W, shape (outputs, inputs, \*window)."""
    bias: Float[Array, " outputs"]
    """b, shape (outputs,)."""
    padding: Padding = eqx.field(static=True, converter=_padding)
    """What is read beyond the edge of the grid."""
    grid: Grid | None = eqx.field(static=True)
    """The only grid it is certified for and accepts, or None for every grid."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: Grid,
        *,
        padding: Padding = Padding.ZEROS,
        grid: Grid | None = None,
        cap: float = 1.0,
        key: PRNGKeyArray,
    ):
        """Starts from Gaussian weights of variance 1/(inputs · taps) and zero bias.

        Args:
            inputs: channels of x.
            outputs: channels of y.
            window: size of the kernel along each axis of the grid.
            padding: what is read beyond the edge of the grid.
            grid: the only grid it is used on, for a bound of that grid; None for every grid.
            cap: c, the largest operator norm allowed, positive.
            key: PRNG key.

        Raises:
            UsageError: a size is not positive, or the grid does not fit the window.
        """
        free = _gaussian(inputs, outputs, window, grid, key)
        self.weight = ConvolutionCap(free, cap, grid, padding)
        self.bias = jnp.zeros(outputs)
        self.padding = padding
        self.grid = grid

    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*grid outputs"]:
        r"""Maps x of shape (\*grid, inputs) to shape (\*grid, outputs).

        Raises:
            UsageError: x lies on another grid than the layer is certified for.
        """
        weight = array_of(self.weight)
        _check_grid(x, weight, self.grid)
        return _convolve(x, weight, self.padding) + _spread(self.bias, x)

    def lipschitz(self) -> UpperBound:
        """The operator norm on the layer's grid, or on every grid."""
        return _norm_of(self.weight, self.grid, self.padding)


class ConvConvexPotential(AbstractInjected):
    r"""Residual convolutional layer with constant 1 and input injection.

    $$y^+ = y - S^\top * \varphi(S * y + U * e + b), \qquad \|S *\|_2 \le \sqrt 2,$$

    with φ = ReLU and $S^\top *$ the adjoint of the convolution $S *$, padding included. Its
    Jacobian in y is $I - S^\top D S$ with a diagonal $0 \le D \le 1$, whose eigenvalues lie in
    $[1 - \|S\|_2^2, 1] \subseteq [-1, 1]$, so the layer is 1-Lipschitz in y, in the 2-norm over all
    cells and channels, for every e. The injection U is free: it costs no contraction.

    Without a grid the cap holds on every grid: a layer trained on 8×8 is certified on 16×16 as it
    stands. Naming the grid gives a bound of that grid alone: exact for circular padding.

    Source: Meunier et al. 2022, "A Dynamical System Perspective for Lipschitz Neural Networks"
        (arXiv 2110.12690), theorem 1, with $S = \sqrt{2} W / \hat\sigma$.
    """

    weight: Array | AbstractParametrization
    r"""S, shape (hidden, channels, \*window)."""
    injection: Float[Array, "hidden inputs *window"]
    r"""U, shape (hidden, inputs, \*window)."""
    bias: Float[Array, " hidden"]
    """b, shape (hidden,)."""
    padding: Padding = eqx.field(static=True, converter=_padding)
    """What is read beyond the edge of the grid."""
    grid: Grid | None = eqx.field(static=True)
    """The only grid it is certified for and accepts, or None for every grid."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        inputs: int,
        window: Grid,
        *,
        padding: Padding = Padding.ZEROS,
        grid: Grid | None = None,
        key: PRNGKeyArray,
    ):
        """Starts S at the cap or near it, U Gaussian of variance 1/(inputs · taps), b at zero.

        Args:
            channels: channels of y.
            hidden: channels of S * y.
            inputs: channels of e; 0 for a layer without one.
            window: size of both kernels along each axis of the grid.
            padding: what is read beyond the edge of the grid.
            grid: the only grid it is used on, for a bound of that grid; None for every grid.
            key: PRNG key.

        Raises:
            UsageError: a size is not positive, or the grid does not fit the window.
        """
        key_weight, key_injection = jax.random.split(key)
        free = _gaussian(channels, hidden, window, grid, key_weight)
        self.weight = ConvolutionCap(free, float(np.sqrt(2.0)), grid, padding)
        self.injection = _gaussian(inputs, hidden, window, grid, key_injection, fewest=0)
        self.bias = jnp.zeros(hidden)
        self.padding = padding
        self.grid = grid

    def inject(self, e: Float[Array, "*grid inputs"]) -> Float[Array, "*grid hidden"]:
        r"""U * e + b, shape (\*grid, hidden): constant inside the loop, so computed once.

        Raises:
            UsageError: e lies on another grid than the layer is certified for.
        """
        _check_grid(e, self.injection, self.grid)
        return _convolve(e, self.injection, self.padding) + _spread(self.bias, e)

    def __call__(
        self, y: Float[Array, "*grid channels"], injected: Float[Array, "*grid hidden"]
    ) -> Float[Array, "*grid channels"]:
        r"""One layer.

        Args:
            y: the state, shape (\*grid, channels).
            injected: U * e + b from `inject`, shape (\*grid, hidden).

        Returns:
            y⁺, shape (\*grid, channels).

        Raises:
            UsageError: y lies on another grid than the layer is certified for.
        """
        s = array_of(self.weight)
        _check_grid(y, s, self.grid)
        hidden = jax.nn.relu(_convolve(y, s, self.padding) + injected)
        return y - _convolve_adjoint(hidden, s, self.padding)

    def rounding(
        self, y: Float[Array, "*grid channels"], injected: Float[Array, "*grid hidden"]
    ) -> Float[Array, ""]:
        r"""Upper bound of the rounding error of one call in the 2-norm, in working precision.

        Each entry of a convolution is one dot product over the taps and channels, n in number, so
        with $\gamma_n = nu/(1-nu)$ (Higham, lemma 3.1) it errs by at most
        $\gamma_{n+1}(|S| * |y| + |b|)$. The kernel |S| has no negative entry, so its symbol is
        largest at angle 0 and its norm, on every grid, at most the Frobenius norm of
        $A = \sum_k |S_k|$. The error passes through φ (slope at most 1) and $S^\top *$ (norm at
        most that of |S|); the second convolution and the subtraction add their own, and the last
        term covers products that underflow to 0.
        """
        s = array_of(self.weight)
        info = jnp.finfo(y.dtype)
        unit, tiny = 0.5 * float(info.eps), float(info.tiny)
        hidden, channels, *window = s.shape
        taps = int(np.prod(window))
        count_in, count_out = taps * channels, taps * hidden
        gamma_in, gamma_out = (dot_rounding(n + 2, y.dtype) for n in (count_in, count_out))
        slack = 1.0 + (y.size + injected.size + s.size + 16) * unit  # of the norms' own rounding
        size_s = slack * _norm(jnp.sum(jnp.abs(s), axis=tuple(range(2, s.ndim))))
        size_y = slack * _norm(y)
        size_in = size_s * size_y + slack * _norm(injected)
        error_in = gamma_in * size_in
        size_out = size_s * (size_in + error_in)
        underflow = tiny * (count_in + count_out + 2) * np.sqrt(y.size + injected.size)
        error = size_s * error_in + gamma_out * size_out + unit * (size_y + size_out)
        return slack * (error + underflow * (1.0 + size_s))

    def lipschitz(self) -> UpperBound:
        """max(1, ‖S *‖₂² − 1) on the layer's grid, or on every grid."""
        norm = _norm_of(self.weight, self.grid, self.padding)
        return UpperBound(max(1.0, float(norm) ** 2 * (1.0 + 1e-15) - 1.0))


class ConvResidualLayer(AbstractResidual):
    r"""Residual convolution with input injection: $y^+ = y + V \varphi(W * y + U * e + b)$.

    φ = ReLU and V mixes the channels of a cell. Its constant in the 2-norm over all cells and
    channels, on every grid, is $1 + \|V\|_2 \|W *\|_2$ at most, which training is free to raise.
    """

    weight: Float[Array, "hidden channels *window"]
    r"""W, shape (hidden, channels, \*window)."""
    readout: Float[Array, "channels hidden"]
    """V, shape (channels, hidden)."""
    injection: Float[Array, "hidden inputs *window"]
    r"""U, shape (hidden, inputs, \*window)."""
    bias: Float[Array, " hidden"]
    """b, shape (hidden,)."""
    padding: Padding = eqx.field(static=True, converter=_padding)
    """What is read beyond the edge of the grid."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        inputs: int,
        window: Grid,
        *,
        padding: Padding = Padding.ZEROS,
        key: PRNGKeyArray,
    ):
        """Starts from Gaussian weights of variance 1/inputs of each kernel, b at zero.

        Args:
            channels: channels of y.
            hidden: channels of W * y.
            inputs: channels of e; 0 for a layer without one.
            window: size of both kernels along each axis of the grid.
            padding: what is read beyond the edge of the grid.
            key: PRNG key.

        Raises:
            UsageError: a size is not positive.
        """
        key_weight, key_readout, key_injection = jax.random.split(key, 3)
        self.weight = _gaussian(channels, hidden, window, None, key_weight)
        self.readout = jax.random.normal(key_readout, (channels, hidden)) / np.sqrt(hidden)
        self.injection = _gaussian(inputs, hidden, window, None, key_injection, fewest=0)
        self.bias = jnp.zeros(hidden)
        self.padding = padding

    def inject(self, e: Float[Array, "*grid inputs"]) -> Float[Array, "*grid hidden"]:
        r"""U * e + b, shape (\*grid, hidden): constant inside the loop, so computed once."""
        _check_grid(e, self.injection, None)
        return _convolve(e, self.injection, self.padding) + _spread(self.bias, e)

    def branch(
        self, y: Float[Array, "*grid channels"], injected: Float[Array, "*grid hidden"]
    ) -> Float[Array, "*grid channels"]:
        r"""V φ(W * y + U * e + b), shape (\*grid, channels)."""
        _check_grid(y, self.weight, None)
        hidden = jax.nn.relu(_convolve(y, self.weight, self.padding) + injected)
        return jnp.matmul(hidden, self.readout.T, precision=jax.lax.Precision.HIGHEST)

    def lipschitz(self) -> UpperBound:
        """1 + ‖V‖₂‖W *‖₂, on every grid."""
        norm = _norm_of(self.weight, None, self.padding)
        return residual(chain(norm, exact_norm(np.asarray(self.readout))))


def _norm_of(
    weight: Array | AbstractParametrization, grid: Grid | None, padding: Padding
) -> UpperBound:
    """The operator norm, from float64."""
    return in_every_program(convolution_norm(numbers_of(weight), grid, padding), weight)


def _convolve(
    x: Float[Array, "*grid inputs"],
    kernel: Float[Array, "outputs inputs *window"],
    padding: Padding,
    before: Grid | None = None,
) -> Float[Array, "*grid outputs"]:
    r"""$y_p = \sum_k W_k x_{p+k-c}$ with c = `before`, ⌊(w−1)/2⌋ unless given."""
    window = kernel.shape[2:]
    before = tuple((w - 1) // 2 for w in window) if before is None else before
    # One product over taps and channels in full float32. The convolution of a GPU library may
    # transform its operands first, to which the bound of `rounding` would not apply.
    widths = [*((b, w - 1 - b) for b, w in zip(before, window, strict=True)), (0, 0)]
    padded = jnp.pad(x, widths, mode="wrap" if padding is Padding.CIRCULAR else "constant")
    matrix = jnp.moveaxis(kernel, (0, 1), (-1, -2)).reshape(-1, kernel.shape[0])

    def product(padded: Array, matrix: Array) -> Array:
        patches = [
            padded[tuple(slice(k, k + n) for k, n in zip(tap, x.shape[:-1], strict=True))]
            for tap in np.ndindex(*window)
        ]
        joined = jnp.concatenate(patches, axis=-1)
        return jnp.matmul(joined, matrix, precision=jax.lax.Precision.HIGHEST)

    # Backwards the patches are cut anew: kept for every loop, they would be most of the memory
    # that a gradient writes and reads, and most of its time.
    return jax.checkpoint(product, prevent_cse=False)(padded, matrix)


def _convolve_adjoint(
    x: Float[Array, "*grid outputs"],
    kernel: Float[Array, "outputs inputs *window"],
    padding: Padding,
) -> Float[Array, "*grid inputs"]:
    r"""The adjoint of `_convolve`, $\sum_k W_k^\top x_{p-k+c}$: by the mirrored kernel."""
    window = kernel.shape[2:]
    mirrored = jnp.flip(jnp.swapaxes(kernel, 0, 1), tuple(range(2, kernel.ndim)))
    return _convolve(x, mirrored, padding, tuple(w // 2 for w in window))


def _spread(bias: Float[Array, " channels"], like: Float[Array, "*grid _"]) -> Array:
    """The bias at every cell."""
    return jnp.broadcast_to(bias, (*like.shape[:-1], bias.size))


def _norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """‖x‖₂ over all entries, safe from overflow and underflow of the squares."""
    largest = jnp.max(jnp.abs(x))
    scale = jnp.where(largest == 0.0, 1.0, largest)
    return scale * jnp.sqrt(jnp.sum((x / scale) ** 2))


def _check_grid(x: Array, kernel: Array, grid: Grid | None) -> None:
    """Refuses a state on a grid that the certificate does not speak of."""
    axes = kernel.ndim - 2
    if x.ndim != axes + 1 or x.shape[-1] != kernel.shape[1]:
        raise UsageError(
            f"The layer convolves {axes} axes of {kernel.shape[1]} channels and was given shape "
            f"{x.shape}; pass one state with the channels last, and vmap over a batch."
        )
    if grid is not None and x.shape[:-1] != tuple(grid):
        raise UsageError(
            f"The layer is certified for the grid {tuple(grid)} alone and was given "
            f"{x.shape[:-1]}; build it with grid=None to use it on every grid."
        )


def _gaussian(
    inputs: int,
    outputs: int,
    window: Grid,
    grid: Grid | None,
    key: PRNGKeyArray,
    fewest: int = 1,
) -> Float[Array, "outputs inputs *window"]:
    """A kernel of variance 1/(inputs · taps); an empty one for 0 inputs, where that is allowed."""
    fits = grid is None or (len(grid) == len(window) and min(grid, default=0) >= 1)
    if min(outputs, *window, len(window)) < 1 or inputs < fewest or not fits:
        raise UsageError(
            f"A convolution of {inputs} to {outputs} channels with window {tuple(window)} on grid "
            f"{grid} does not exist; give positive sizes, and one for each axis of the grid."
        )
    fan = max(1, inputs * int(np.prod(window)))
    return jax.random.normal(key, (outputs, inputs, *window)) / np.sqrt(fan)
