"""The seam between a world model and everything that uses one."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.core import AbstractDepthRule, Found, Solution


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a world model needs to know about an environment."""

    observation: int
    """Size of the encoded, normalised observation vector."""
    action: int
    """Size of the encoded action vector u."""
    shape: tuple[int, ...] | None = None
    """Shape that the observation vector was flattened from, in row-major order; None where it has
    none, as that of a dictionary."""
    image: bool = False
    """Whether `shape` is that of an image: height, width, channels."""


class Outcome(eqx.Module):
    """What an imagined transition brings besides the next latent state."""

    reward: Float[Array, ""]
    """Predicted reward divided by the largest absolute reward seen, scalar."""
    continuation_logit: Float[Array, ""]
    """Logit of the probability that the task does not terminate with this step, scalar."""

    @property
    def continuation(self) -> Float[Array, ""]:
        """Probability that the task goes on, scalar in (0, 1)."""
        return jax.nn.sigmoid(self.continuation_logit)


class AbstractWorldModel(eqx.Module):
    """A latent world model; unbatched, callers vmap."""

    latent: eqx.AbstractVar[int]
    """Size of z."""
    depth: eqx.AbstractVar[int]
    """Loops of a transition when no rule is given; 1 for models without loops, whose one pass is
    counted as one loop."""
    core: eqx.AbstractVar[Any]
    """The part that computes the latent transition: what parameter efficiency counts."""

    @abc.abstractmethod
    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """Latent state z_t of shape (latent,) of an observation o_t of shape (observation,)."""

    @abc.abstractmethod
    def transition(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        rule: AbstractDepthRule | None = None,
    ) -> Solution[Float[Array, " latent"]]:
        """One imagined transition z_t, u_t → z_{t+1}.

        Args:
            z: latent state z_t, shape (latent,).
            u: encoded action u_t, shape (action,).
            rule: how many loops; the model's own depth when left out. Models without loops
                ignore it and report one loop.

        Returns:
            z_{t+1} of shape (latent,) with loop statistics.
        """

    @abc.abstractmethod
    def decode(self, z: Float[Array, " latent"]) -> Float[Array, " observation"]:
        """Normalised observation of shape (observation,) at latent state z of shape (latent,)."""

    @abc.abstractmethod
    def outcome(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        z_next: Float[Array, " latent"],
    ) -> Outcome:
        """Reward r_t and continuation of the transition z_t, u_t → z_{t+1}."""


@runtime_checkable
class Remembering(Protocol):
    """A world model whose latent state holds memory of imagined steps behind what is now.

    An encoded observation has no memory. So critic and policy read the part that describes the
    present, and only that part of an imagined state is held to the encoder's.
    """

    @property
    def present(self) -> int:
        """Entries of z that describe the present; they come first."""
        ...


def present_size(model: object) -> int:
    """Entries of z that describe the present: all of them for a model without memory."""
    if isinstance(model, Remembering):
        return model.present
    assert isinstance(model, AbstractWorldModel)
    return model.latent


def present(model: object, z: Float[Array, "*state"]) -> Float[Array, "*now"]:
    """The part of latent states that describes the present.

    Args:
        model: a world model, or what wraps one.
        z: latent states, shape (..., latent).

    Returns:
        Shape (..., present); z itself for a model without memory.
    """
    return z[..., : model.present] if isinstance(model, Remembering) else z


@runtime_checkable
class AuxiliaryLoss(Protocol):
    """A world model that brings a loss term of its own, added to those that all models share."""

    def auxiliary(
        self,
        observation: Float[Array, "steps_plus_one observation"],
        action: Float[Array, "steps action"],
        valid: Bool[Array, " steps"],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """The term of one sequence, weighted by `learner.auxiliary_weight`.

        Args:
            observation: normalised o_0 … o_H, shape (H + 1, observation).
            action: encoded u_0 … u_{H−1}, shape (H, action).
            valid: whether a step belongs to the episode, shape (H,).
            key: PRNG key.

        Returns:
            The loss, scalar; of valid steps alone.
        """
        ...


@runtime_checkable
class EarlyExits(Protocol):
    """A world model that may carry a halting gate."""

    @property
    def gated(self) -> bool:
        """Whether it carries one."""
        ...

    def exits(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> tuple[Float[Array, "loops latent"], Float[Array, " loops"]]:
        """What a transition would give after each loop, for training the gate.

        Args:
            z: latent state z_t, shape (latent,).
            u: encoded action u_t, shape (action,).

        Returns:
            z_{t+1} after loops 1 … T, shape (T, latent), and the gate's logits, shape (T,).
        """
        ...


@runtime_checkable
class EveryDepth(Protocol):
    """A world model with an inner loop, of which every depth can be read in one program."""

    def unroll(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        depth: int,
        read: Callable[[Solution[Float[Array, " latent"]]], Found],
    ) -> Found:
        """What is read of the transition z_t, u_t → z_{t+1} after 0, 1 … T loops.

        Args:
            z: latent state z_t, shape (latent,).
            u: encoded action u_t, shape (action,).
            depth: T, largest number of loops.
            read: arrays of a solution. After t ≥ 1 loops it is what `transition` gives with
                `FixedDepth(t)`; after none its residual and error bound are infinite.

        Returns:
            The arrays that `read` gives, each with a leading axis of length T + 1.
        """
        ...


class WorldModelBuilder(abc.ABC):
    """Configuration of a world model, which builds it.

    Where the model has loops, an attribute `depth` of its configuration is their number; settings
    that need loops are refused for a configuration without one.
    """

    @abc.abstractmethod
    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> AbstractWorldModel:
        """Builds the model for an environment's sizes. Called while JAX traces.

        Args:
            sizes: sizes of observation and action vectors.
            key: PRNG key.

        Returns:
            A freshly initialised world model.
        """
