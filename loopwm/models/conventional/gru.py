"""A gated recurrent unit as latent dynamics."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.models.conventional.base import OnePassModel
from loopwm.models.latent import check_positive_sizes, scaled
from loopwm.models.observations import View
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.nn.mlp import LayerNormLinear


@dataclasses.dataclass(frozen=True)
class GRUConfig(WorldModelBuilder):
    """Sizes of a recurrent world model."""

    latent: int = 48
    """Size of the latent state z, which is the hidden state of the unit."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    width: int = 48
    """Size of the unit's input."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""

    def __post_init__(self):
        """Refuses sizes below 1."""
        check_positive_sizes(self, "latent", "hidden", "width")

    def at_width(self, width: int) -> "GRUConfig":
        """The same proportions with a unit whose input has that width."""
        latent = scaled(self.latent, width, self.width)
        hidden = scaled(self.hidden, width, self.width)
        return dataclasses.replace(self, latent=latent, hidden=hidden, width=width)

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> OnePassModel:
        """Builds the model for an environment's sizes."""
        key_core, key_rest = jax.random.split(key)
        core = GRUCore(self, sizes.action, key=key_core)
        return OnePassModel(
            sizes,
            Tanh(),
            core,
            present=self.latent,
            hidden=self.hidden,
            view=self.view,
            key=key_rest,
        )


class Tanh(eqx.Module):
    """The box in which the hidden state of a unit stays: tanh of each entry."""

    def __call__(self, x: Float[Array, " latent"]) -> Float[Array, " latent"]:
        """tanh(x), shape (latent,)."""
        return jnp.tanh(x)


class GRUCore(eqx.Module):
    r"""Deterministic recurrent dynamics: z is the hidden state, the action its input.

    $$i = \mathrm{silu}(\mathrm{LayerNorm}(W [z, u] + b)), \qquad
    r = \sigma(W_r i + U_r z + b_r), \qquad q = \sigma(W_q i + U_q z + b_q),$$
    $$n = \tanh(W_n i + b_n + r \odot (U_n z + b'_n)), \qquad
    z' = (1 - q) \odot n + q \odot z.$$

    z starts in $(-1, 1)^n$, where the encoder's tanh puts it, and stays there: each entry of z' is
    a mean of an entry of z and a tanh.

    Taken over from Ha and Schmidhuber: a recurrent net over latent states and actions, rolled
    forward in its own predictions. Not taken over: the LSTM (a GRU here), its mixture density
    output (a deterministic prediction here), and the separately trained VAE. Their net reads a
    code beside its hidden state; here the hidden state is the code, as in the purely deterministic
    model that PlaNet compares with, $h_t = f(h_{t-1}, a_{t-1})$, and starts from the encoded
    observation, since every model behind this seam is given one observation and no history. A
    layer before the unit is in Dreamer's recurrent cell too; here it has a LayerNorm, and silu.

    Sources: Ha and Schmidhuber 2018 (arXiv 1803.10122), section 2.2; Hafner et al. 2019, PlaNet
        (arXiv 1811.04551), section 3 and figure 2a; Hafner et al. 2020, Dreamer
        (arXiv 1912.01603); the unit: Cho et al. 2014 (arXiv 1406.1078), section 2.3, with the
        reset gate behind the matrix product, as in cuDNN.
    """

    embed: LayerNormLinear
    cell: eqx.nn.GRUCell

    def __init__(self, config: GRUConfig, action: int, *, key: PRNGKeyArray):
        """Args: sizes, size of u, PRNG key."""
        key_embed, key_cell = jax.random.split(key)
        self.embed = LayerNormLinear(config.latent + action, config.width, key=key_embed)
        self.cell = eqx.nn.GRUCell(config.width, config.latent, key=key_cell)

    def __call__(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, " latent"]:
        """z' of shape (latent,)."""
        return self.cell(self.embed(jnp.concatenate([z, u])), z)
