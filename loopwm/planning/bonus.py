"""Exploring through the model: a bonus on what it is unsure of."""

import dataclasses
import enum

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.models import AbstractOnePassModel, AbstractWorldModel
from loopwm.planning.seam import AbstractPlanningModel, Imagined, NetworksModel
from loopwm.stability import Certifiable, Mode


class Bonus(enum.StrEnum):
    """What is added to the imagined reward of a transition while exploring."""

    NONE = "none"
    """Nothing."""
    RESIDUAL = "residual"
    """How far the inner loop still moved at its end, ‖h_T − h_{T−1}‖."""
    CERTIFIED = "certified"
    """The certified bound of how far its answer is from the fixed point, ‖h_T − h*‖."""
    DISAGREEMENT = "disagreement"
    """How far the action values of the critic's members are apart (their standard deviation)."""


class ExploringModel(AbstractPlanningModel):
    r"""The trained networks, with rewards raised where they are unsure.

    $$\tilde r = r + 2^n (1 - \gamma)\, w\, b(z, u)$$

    so that w·b counts like a reward in units of the largest absolute one; rewards and values are
    otherwise those of the model inside. The planner looks for b within its horizon alone: the
    critic is trained without it.

    Sources: Sekar et al. 2020, Plan2Explore (arXiv 2005.05960), for a bonus that is planned for in
        imagination; Osband et al. 2016 (arXiv 1602.04621), for disagreeing value functions.
    """

    inside: NetworksModel
    explore: Bool[Array, ""]
    """Whether the bonus is paid, scalar; False leaves every number as it is."""
    bonus: Bonus = eqx.field(static=True)
    weight: float = eqx.field(static=True)
    """w, no less than 0."""
    discount: float = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def step(self, z: Float[Array, " latent"], u: Float[Array, " action"]) -> Imagined:
        """One imagined transition, its reward raised."""
        imagined = self.inside.step(z, u)
        unit = (1.0 - self.discount) * self.inside.networks.critic.scale
        extra = unit * self.weight * self._unsure(z, u)
        return dataclasses.replace(
            imagined, reward=jnp.where(self.explore, imagined.reward + extra, imagined.reward)
        )

    def _unsure(self, z: Float[Array, " latent"], u: Float[Array, " action"]) -> Float[Array, ""]:
        """b of the transition from z under u, scalar, no less than 0."""
        networks = self.inside.networks
        if self.bonus is Bonus.DISAGREEMENT:
            return _spread(networks.critic.values(z, u))
        if self.bonus is Bonus.NONE:
            return jnp.zeros(())
        stats = networks.world_model.transition(z, u, self.inside.rule).stats
        return stats.error_bound if self.bonus is Bonus.CERTIFIED else stats.residual

    def value(self, z: Float[Array, " latent"]) -> Float[Array, ""]:
        """Terminal value of the model inside."""
        return self.inside.value(z)

    def propose(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """A sample of the policy."""
        return self.inside.propose(z, key=key)

    def at_depth(self, depth: int) -> "ExploringModel":
        """The same with `depth` loops a transition; the bonus is that of those loops."""
        return self._with(self.inside.at_depth(depth))

    def log_prior(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """Log-probabilities of a categorical policy's actions."""
        return self.inside.log_prior(z)

    def differentiable(self) -> "ExploringModel":
        """With the model inside as one that can be differentiated in reverse mode."""
        return self._with(self.inside.differentiable())

    def _with(self, inside: AbstractPlanningModel) -> "ExploringModel":
        assert isinstance(inside, NetworksModel)
        return self if inside is self.inside else dataclasses.replace(self, inside=inside)


def _spread(values: Float[Array, " members"]) -> Float[Array, ""]:
    """Standard deviation; where all values are equal its gradient is 0, which is no number else."""
    variance = jnp.var(values)
    apart = variance > 0.0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, variance, 1.0)), 0.0)


def exploring(
    model: NetworksModel, bonus: Bonus, weight: float, explore: Bool[Array, ""]
) -> AbstractPlanningModel:
    """The model to plan with: the very same object (`is`) where there is no bonus.

    Args:
        model: the trained networks.
        bonus: what is added to rewards.
        weight: w, its weight.
        explore: whether the decision is one of training, scalar.
    """
    if bonus is Bonus.NONE:
        return model
    return ExploringModel(
        inside=model,
        explore=explore,
        bonus=bonus,
        weight=weight,
        discount=model.discount,
        action_size=model.action_size,
    )


def check_bonus(bonus: Bonus, model: AbstractWorldModel) -> None:
    """Refuses a bonus that the world model cannot give.

    Raises:
        UsageError: its transitions have no loops, or the certified bound is asked for and its core
            is not certified to contract.
    """
    if bonus not in (Bonus.RESIDUAL, Bonus.CERTIFIED):
        return
    if isinstance(model, AbstractOnePassModel):
        raise UsageError(
            f"planning.bonus is {bonus}, but this world model imagines in one pass and has no "
            "loops; use disagreement, or a model.name of looped, grid or tokens."
        )
    mode = model.core.declare().mode if isinstance(model.core, Certifiable) else None
    if bonus is Bonus.CERTIFIED and mode is not Mode.CONTRACTIVE:
        raise UsageError(
            "planning.bonus is certified, but this core is not certified to contract, so there is "
            "no bound; use residual or disagreement, or model.core.mode=contractive."
        )
