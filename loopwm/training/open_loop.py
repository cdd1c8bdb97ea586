"""Open-loop models: encode once, advance K times in latent space, decode when asked."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from loopwm.core import AbstractDepthRule, AbstractUpdate, GridConfig, GridCore, iterate
from loopwm.core.cells import CellPrelude, each_cell
from loopwm.models import AbstractWorldModel, AuxiliaryLoss, present_size
from loopwm.nn import SoftNorm


class AbstractOpenLoop(eqx.Module):
    """What supervised training rolls; unbatched, callers vmap."""

    @abc.abstractmethod
    def encode(self, observation: Float[Array, "*observation"]) -> Float[Array, "*latent"]:
        """z_0 of an observation."""

    @abc.abstractmethod
    def bind(self, action: Float[Array, "*action"]) -> PyTree:
        """What `advance` needs of an action u_k, in so far as it does not depend on z_k.

        It is computed for all actions of a sequence at once, before the first is taken.
        """

    @abc.abstractmethod
    def advance(self, z: Float[Array, "*latent"], bound: PyTree) -> Float[Array, "*latent"]:
        """z_{k+1} from z_k and the bound action u_k."""

    @abc.abstractmethod
    def decode(self, z: Float[Array, "*latent"]) -> Float[Array, "*prediction"]:
        """What is predicted at z."""


class OpenLoopWorldModel(AbstractOpenLoop):
    """A world model on vectors, at the depth of a rule."""

    model: AbstractWorldModel
    rule: AbstractDepthRule | None = None
    """Loops of a transition; the model's own when None."""

    @property
    def present(self) -> int:
        """Entries of z that describe the present; see `Remembering`."""
        return present_size(self.model)

    def auxiliary(
        self,
        observation: Float[Array, "steps_plus_one observation"],
        action: Float[Array, "steps action"],
        valid: Bool[Array, " steps"],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """The model's own loss term, scalar; 0 for a model without one."""
        if not isinstance(self.model, AuxiliaryLoss):
            return jnp.zeros(())
        return self.model.auxiliary(observation, action, valid, key=key)

    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """E(o), shape (latent,)."""
        return self.model.encode(observation)

    def bind(self, action: Float[Array, " action"]) -> Float[Array, " action"]:
        """The action itself: the prelude sees it together with z."""
        return action

    def advance(
        self, z: Float[Array, " latent"], bound: Float[Array, " action"]
    ) -> Float[Array, " latent"]:
        """The transition's next latent state, shape (latent,)."""
        return self.model.transition(z, bound, self.rule).value

    def decode(self, z: Float[Array, " latent"]) -> Float[Array, " observation"]:
        """The decoded observation, shape (observation,)."""
        return self.model.decode(z)


class OpenLoopGrid(AbstractOpenLoop):
    r"""A grid core whose loop state is the latent state: a process that actions drive.

    $$z_0 = \mathrm{SoftNorm}(\mathrm{Encoder}(o_0)), \qquad
    z_{k+1} = F^{T}(z_k, \mathrm{Prelude}(u_k)), \qquad
    \hat o_k = \mathrm{ReadOut}(z_k, 0)$$

    with $F$ the core's loop, T from the rule, and SoftNorm at every cell.
    """

    encoder: CellPrelude
    core: GridCore
    bound: SoftNorm
    rule: AbstractDepthRule

    def __init__(
        self,
        observation: int,
        action: int,
        outputs: int,
        config: GridConfig,
        rule: AbstractDepthRule,
        *,
        key: PRNGKeyArray,
    ):
        """Builds the model.

        Args:
            observation: channels of an observation grid.
            action: channels of an action grid.
            outputs: channels of a prediction.
            config: kind of core and its sizes.
            rule: loops an action.
            key: PRNG key.
        """
        key_encoder, key_core = jax.random.split(key)
        self.encoder = CellPrelude(
            observation,
            config.channels,
            dimensions=config.dimensions,
            window=1,
            periodic=config.periodic,
            key=key_encoder,
        )
        self.core = GridCore(action, outputs, config, key=key_core)
        self.bound = SoftNorm(float(np.sqrt(config.channels)))
        self.rule = rule

    def encode(
        self, observation: Float[Array, "*cells observation"]
    ) -> Float[Array, "*cells channels"]:
        """z_0 of shape (*cells, channels)."""
        return each_cell(self.bound, self.encoder(observation))

    def bind(self, action: Float[Array, "*cells action"]) -> AbstractUpdate:
        """The core's loop under the action."""
        return self.core.bind(self.core.prelude(action))

    def advance(
        self, z: Float[Array, "*cells channels"], bound: AbstractUpdate
    ) -> Float[Array, "*cells channels"]:
        """The loop, T times, under the bound action; shape (*cells, channels)."""
        return iterate(bound, z, self.rule).value

    def decode(self, z: Float[Array, "*cells channels"]) -> Float[Array, "*cells outputs"]:
        """The core's read-out of the state alone, shape (*cells, outputs)."""
        nothing = jnp.zeros((*z.shape[:-1], self.core.config.inputs))
        return self.core.readout(z, nothing)
