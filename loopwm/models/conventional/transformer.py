"""A causal transformer over the last imagined latent states and actions."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.models.conventional.base import OnePassModel
from loopwm.models.latent import check_positive_sizes, scaled
from loopwm.models.observations import View
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.nn import SoftNorm


@dataclasses.dataclass(frozen=True)
class TransformerConfig(WorldModelBuilder):
    """Sizes of a transformer world model."""

    latent: int = 32
    """Size of the code x of the present; z holds the window beside it."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    width: int = 32
    """Size of a token, a multiple of `heads`."""
    layers: int = 2
    """Transformer blocks."""
    heads: int = 4
    """Attention heads of each."""
    expansion: int = 2
    """Hidden width of a block's MLP over the token's."""
    window: int = 4
    """W: steps that are attended to, the present one included."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""

    def __post_init__(self):
        """Refuses sizes below 1, and tokens that heads do not divide."""
        check_positive_sizes(
            self, "latent", "hidden", "width", "layers", "heads", "expansion", "window"
        )
        if self.width % self.heads:
            raise UsageError(
                f"model.width is {self.width}, which is no multiple of model.heads "
                f"({self.heads}); give one that is."
            )

    def at_width(self, width: int) -> "TransformerConfig":
        """The same proportions with a code in proportion to that width; whole heads."""
        tokens = self.heads * max(1, round(width / self.heads))
        latent = scaled(self.latent, width, self.width)
        hidden = scaled(self.hidden, width, self.width)
        return dataclasses.replace(self, latent=latent, hidden=hidden, width=tokens)

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> OnePassModel:
        """Builds the model for an environment's sizes."""
        key_core, key_rest = jax.random.split(key)
        core = TransformerCore(self, sizes.action, key=key_core)
        return OnePassModel(
            sizes,
            core.bound,
            core,
            present=self.latent,
            memory=core.memory,
            hidden=self.hidden,
            view=self.view,
            key=key_rest,
        )


class TransformerBlock(eqx.Module):
    r"""$y \leftarrow y + \mathrm{Attention}(\mathrm{LN}(y))$, then the same with an MLP.

    Each head computes $\mathrm{softmax}(QK^\top / \sqrt{d_k})\,V$ under the mask; the MLP has one
    hidden layer of GELU.
    """

    attention: eqx.nn.MultiheadAttention
    norm_attention: eqx.nn.LayerNorm
    norm_mlp: eqx.nn.LayerNorm
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, width: int, heads: int, expansion: int, *, key: PRNGKeyArray):
        """Args: size of a token, heads, hidden width over it, PRNG key."""
        key_attention, key_widen, key_narrow = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=key_attention)
        self.norm_attention, self.norm_mlp = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.widen = eqx.nn.Linear(width, expansion * width, key=key_widen)
        self.narrow = eqx.nn.Linear(expansion * width, width, key=key_narrow)

    def __call__(
        self, tokens: Float[Array, "tokens width"], mask: Bool[Array, "tokens tokens"]
    ) -> Float[Array, "tokens width"]:
        """Tokens of shape (tokens, width); mask[i, j] lets token i see token j."""
        seen = jax.vmap(self.norm_attention)(tokens)
        tokens = tokens + self.attention(seen, seen, seen, mask=mask)
        mlp = lambda y: self.narrow(jax.nn.gelu(self.widen(self.norm_mlp(y))))  # noqa: E731
        return tokens + jax.vmap(mlp)(tokens)


class TransformerCore(eqx.Module):
    r"""Latent dynamics with attention to the last W codes and actions.

    $$y_i = A x_i + B u_i + p_i, \quad i = t - W + 1, \dots, t, \qquad
    Y = (\mathrm{Block}_L \circ \dots \circ \mathrm{Block}_1)(y), \qquad
    x_{t+1} = \mathrm{Bound}(x_t + C\,\mathrm{LN}(Y_t) + c),$$

    where token i sees the filled tokens up to i, and p_i belongs to the place in the window. The
    bound is the soft norm of radius √latent.

    z is $[x_t,\ f,\ x_{t-W+1}, \dots, x_{t-1},\ u_{t-W+1}, \dots, u_{t-1}]$ with f of W − 1 zeros
    and ones that say which places are filled: none after encoding, one more with every imagined
    step. So the map from z to z' is Markov, and the window moves within it. Nothing is cached: each
    transition computes the whole window anew.

    Sources: Vaswani et al. 2017 (arXiv 1706.03762), equation 1 and section 3.2.2, attention;
        Xiong et al. 2020 (arXiv 2002.04745), the norm in front; causal transformers over latent
        states and actions as world models: Chen et al. 2022, TransDreamer (arXiv 2202.09481);
        Micheli et al. 2023, IRIS (arXiv 2209.00588). Not taken over: stochastic and discrete
        codes, and training on long sequences.
    """

    state: eqx.nn.Linear
    action: eqx.nn.Linear
    places: Float[Array, "window width"]
    """p, shape (W, width)."""
    blocks: tuple[TransformerBlock, ...]
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear
    bound: SoftNorm
    latent: int = eqx.field(static=True)
    """Size of a code x."""
    actions: int = eqx.field(static=True)
    """Size of u."""
    window: int = eqx.field(static=True)
    """W."""

    def __init__(self, config: TransformerConfig, action: int, *, key: PRNGKeyArray):
        """Args: sizes, size of u, PRNG key."""
        key_state, key_action, key_out, key_places, *keys = jax.random.split(key, 4 + config.layers)
        width = config.width
        self.state = eqx.nn.Linear(config.latent, width, key=key_state)
        self.action = eqx.nn.Linear(action, width, use_bias=False, key=key_action)
        self.places = 0.1 * jax.random.normal(key_places, (config.window, width))
        self.blocks = tuple(
            TransformerBlock(width, config.heads, config.expansion, key=k) for k in keys
        )
        self.norm = eqx.nn.LayerNorm(width)
        self.readout = eqx.nn.Linear(width, config.latent, key=key_out)
        self.bound = SoftNorm(float(np.sqrt(config.latent)))
        self.latent, self.actions, self.window = config.latent, action, config.window

    @property
    def memory(self) -> int:
        """Entries of z behind x: W − 1 places of a flag, a code and an action."""
        return (self.window - 1) * (1 + self.latent + self.actions)

    def __call__(
        self, z: Float[Array, " state"], u: Float[Array, " action"]
    ) -> Float[Array, " state"]:
        """z' of z's shape, (latent + memory,)."""
        x, filled, codes, actions = self._parts(z)
        codes = jnp.concatenate([codes, x[None]])
        actions = jnp.concatenate([actions, u[None]])
        filled = jnp.concatenate([filled, jnp.ones(1)])
        tokens = jax.vmap(self.state)(codes) + jax.vmap(self.action)(actions) + self.places
        causal = jnp.tril(jnp.ones((self.window, self.window), bool))
        # An empty place sees itself, and nobody sees it.
        mask = causal & ((filled > 0.5)[None, :] | jnp.eye(self.window, dtype=bool))
        for block in self.blocks:
            tokens = block(tokens, mask)
        following = self.bound(x + self.readout(self.norm(tokens[-1])))
        past = (filled[1:], codes[1:].ravel(), actions[1:].ravel())
        return jnp.concatenate([following, *past])

    def _parts(self, z: Array) -> tuple[Array, Array, Array, Array]:
        """x, flags, codes (W − 1, latent) and actions (W − 1, actions) of the window."""
        before = self.window - 1
        ends = np.cumsum([self.latent, before, before * self.latent])
        x, filled, codes, actions = jnp.split(z, ends)
        shape = (before, self.latent), (before, self.actions)
        return x, filled, codes.reshape(shape[0]), actions.reshape(shape[1])
