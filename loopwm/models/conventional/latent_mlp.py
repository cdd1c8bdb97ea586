"""The implicit world model of TD-MPC2: an MLP on latent states of simplices."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.models.conventional.base import OnePassModel
from loopwm.models.latent import check_positive_sizes, scaled
from loopwm.models.observations import View
from loopwm.models.world_model import Sizes, WorldModelBuilder


@dataclasses.dataclass(frozen=True)
class LatentMLPConfig(WorldModelBuilder):
    """Sizes of a latent MLP; the defaults are small, `tdmpc2` gives the published ones."""

    latent: int = 48
    """Size of the latent state z, a multiple of `group`."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    width: int = 80
    """Width of the dynamics' hidden layers."""
    layers: int = 2
    """Hidden layers of the dynamics."""
    group: int = 8
    """V: entries of z that form one simplex."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""

    def __post_init__(self):
        """Refuses sizes below 1, and a latent state that groups do not fill."""
        check_positive_sizes(self, "latent", "hidden", "width", "layers", "group")
        if self.latent % self.group:
            raise UsageError(
                f"model.latent is {self.latent}, which is no multiple of model.group "
                f"({self.group}); give one that is."
            )

    @classmethod
    def tdmpc2(cls) -> "LatentMLPConfig":
        """TD-MPC2's default: encoder 256, MLPs 512, latent state 512, V = 8.

        With `ValueConfig(hidden=512, depth=2, bins=101, members=5)` the whole agent has about the
        5 M parameters that the paper counts (preset `tdmpc2`).
        """
        return cls(latent=512, hidden=256, width=512)

    def at_width(self, width: int) -> "LatentMLPConfig":
        """The same proportions with hidden layers of that width; z in whole groups."""
        groups = scaled(self.latent // self.group, width, self.width)
        hidden = scaled(self.hidden, width, self.width)
        return dataclasses.replace(self, latent=groups * self.group, hidden=hidden, width=width)

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> OnePassModel:
        """Builds the model for an environment's sizes."""
        key_core, key_rest = jax.random.split(key)
        bound = NormedSimplices(self.latent, self.group)
        core = LatentMLPCore(self, sizes.action, key=key_core)
        return OnePassModel(
            sizes,
            bound,
            core,
            present=self.latent,
            hidden=self.hidden,
            view=self.view,
            key=key_rest,
        )


def simplices(x: Float[Array, " latent"], group: int) -> Float[Array, " latent"]:
    r"""SimNorm: a softmax over each group of V entries, so that z is a row of simplices.

    $$z = [g_1, \dots, g_L], \qquad
    g_i = \mathrm{softmax}(x_{(i-1)V+1}, \dots, x_{iV}), \qquad L = \mathrm{latent} / V,$$

    at temperature 1.

    Args:
        x: shape (latent,), latent a multiple of the group.
        group: V.

    Returns:
        z of shape (latent,): not negative, and each group sums to 1.

    Source: TD-MPC2 (arXiv 2310.16828), section 3.1, simplicial normalisation.
    """
    return jax.nn.softmax(x.reshape(-1, group), axis=-1).ravel()


class NormedSimplices(eqx.Module):
    """SimNorm(LayerNorm(x)): how encoder and dynamics end."""

    norm: eqx.nn.LayerNorm
    group: int = eqx.field(static=True)

    def __init__(self, size: int, group: int):
        """Args: size of x, V."""
        self.norm, self.group = eqx.nn.LayerNorm(size), group

    def __call__(self, x: Float[Array, " latent"]) -> Float[Array, " latent"]:
        """z of shape (latent,) from x of shape (latent,)."""
        return simplices(self.norm(x), self.group)


class MishLayer(eqx.Module):
    r"""$\mathrm{mish}(\mathrm{LayerNorm}(Wx + b))$, $\mathrm{mish}(x) = x \tanh(\log(1 + e^x))$."""

    linear: eqx.nn.Linear
    norm: eqx.nn.LayerNorm

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        """Args: size of x, size of the result, PRNG key."""
        self.linear = eqx.nn.Linear(inputs, outputs, key=key)
        self.norm = eqx.nn.LayerNorm(outputs)

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """Maps x of shape (inputs,) to shape (outputs,)."""
        return jax.nn.mish(self.norm(self.linear(x)))


class LatentMLPCore(eqx.Module):
    r"""Latent dynamics of TD-MPC2.

    $$z' = d(z, u) = \mathrm{SimNorm}(\mathrm{LayerNorm}(W y_n + b)), \qquad
    y_{i+1} = \mathrm{mish}(\mathrm{LayerNorm}(W_i y_i + b_i)), \quad y_0 = [z, u].$$

    Taken over: the latent dynamics $z' = d(z, a)$, SimNorm behind encoder and dynamics, and their
    layers. Not taken over, because all families here share them: encoder's hidden layer (silu for
    mish), decoder (the paper's model has none), scalar reward, losses and planner; dropout of 1 %
    in the first layer of the Q-functions; task embeddings.

    Source: TD-MPC2 (arXiv 2310.16828), section 3.1, components and SimNorm; the order of linear
        map, LayerNorm and activation as in its published code (nicklashansen/tdmpc2, layers.py).
    """

    layers: tuple[MishLayer, ...]
    readout: eqx.nn.Linear
    bound: NormedSimplices

    def __init__(self, config: LatentMLPConfig, action: int, *, key: PRNGKeyArray):
        """Args: sizes, size of u, PRNG key."""
        *keys, key_out = jax.random.split(key, config.layers + 1)
        inputs = [config.latent + action] + [config.width] * (config.layers - 1)
        self.layers = tuple(
            MishLayer(size, config.width, key=k) for size, k in zip(inputs, keys, strict=True)
        )
        self.readout = eqx.nn.Linear(config.width, config.latent, key=key_out)
        self.bound = NormedSimplices(config.latent, config.group)

    def __call__(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, " latent"]:
        """z' of shape (latent,)."""
        y = jnp.concatenate([z, u])
        for layer in self.layers:
            y = layer(y)
        return self.bound(self.readout(y))
