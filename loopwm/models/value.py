"""Values as categorical distributions over a bounded range, and the critic."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.nn import MLP


class ValueSupport(eqx.Module):
    r"""Histogram over normalised returns in [−1, 1].

    A value is $V' = 2^n (1-\gamma) V / r_{max}$, the discounted average reward over the largest
    absolute reward, times the critic's zoom; without zoom it cannot leave [−1, 1]. A target is
    smoothed by a Gaussian before it is put in bins (HL-Gauss); the cross-entropy with it is robust
    to the scale of rewards.

    Source: Farebrother et al. 2024, "Stop Regressing: Training Value Functions via
        Classification for Scalable Deep RL" (arXiv 2403.03950), section 3.1.
    """

    bins: int = eqx.field(static=True)
    """Number of bins, at least 9: three on each side lie outside the range."""
    spread: float = eqx.field(static=True, default=0.75)
    """Standard deviation of the smoothing, in bin widths."""

    def _edges(self) -> Float[Array, " edges"]:
        # Three bins of margin on each side, four standard deviations of the smoothing, so that −1
        # and 1 can be expressed without bias. With one bin the mean at 1 is 0.006 short, which
        # bootstrapping at a discount of 0.99 makes into 0.96 for a value of 1.
        margin = 3
        width = 2.0 / (self.bins - 2 * margin)
        return jnp.linspace(-1.0 - margin * width, 1.0 + margin * width, self.bins + 1)

    def target(self, value: Float[Array, ""]) -> Float[Array, " bins"]:
        """Probabilities of shape (bins,) of a scalar value, clipped to [−1, 1]."""
        edges = self._edges()
        sigma = self.spread * (edges[1] - edges[0])
        below = jax.scipy.special.ndtr((edges - jnp.clip(value, -1.0, 1.0)) / sigma)
        return jnp.diff(below) / (below[-1] - below[0])

    def mean(self, logits: Float[Array, " bins"]) -> Float[Array, ""]:
        """Expected value of the distribution with logits of shape (bins,), scalar."""
        edges = self._edges()
        return jax.nn.softmax(logits) @ (0.5 * (edges[1:] + edges[:-1]))


@dataclasses.dataclass(frozen=True)
class ValueConfig:
    """Sizes of critic and policy."""

    hidden: int = 64
    """Width of the hidden layers."""
    depth: int = 2
    """Hidden layers."""
    bins: int = 51
    """Bins of the value distribution."""
    members: int = 2
    """Action-value networks of the critic; targets take the smaller of two, drawn at random where
    there are more."""
    entropy: float = 0.4
    """Entropy that a policy over categories is held at, over the uniform one's; from 0 to 1.
    Values are those of the policy. One that slips now and then is worth less before the edge of
    what it can hold, which is what the planner steers by; one that slips too often is worth
    nothing where precision is asked for."""

    def __post_init__(self):
        """Refuses sizes that cannot be built."""
        if self.members < 2:
            raise UsageError(f"heads.members is {self.members}; give at least 2.")
        if not 0.0 <= self.entropy <= 1.0:
            raise UsageError(f"heads.entropy is {self.entropy}; give a share from 0 to 1.")
        if self.hidden < 1 or self.depth < 1 or self.bins < 9:
            raise UsageError(
                f"heads.hidden, depth and bins are {self.hidden}, {self.depth} and {self.bins}; "
                "give at least 1, 1 and 9."
            )


class Critic(eqx.Module):
    """Action-value networks Q(z, u) as distributions over normalised returns."""

    members: MLP
    """Parameters of all networks, stacked on a leading axis of members."""
    support: ValueSupport
    reads: int = eqx.field(static=True)
    """First entries of z that it reads."""
    zoom: Int[Array, ""]
    """n: values are 2ⁿ (1 − γ) V / r_max. Not trained, but set from the returns seen."""

    def __init__(self, latent: int, action: int, config: ValueConfig, *, key: PRNGKeyArray):
        """Args: entries of z that are read, size of u, sizes of the networks, PRNG key."""

        def build(member_key: PRNGKeyArray) -> MLP:
            return MLP(
                latent + action,
                config.bins,
                width=config.hidden,
                depth=config.depth,
                zero_readout=True,
                key=member_key,
            )

        self.members = eqx.filter_vmap(build)(jax.random.split(key, config.members))
        self.support = ValueSupport(config.bins)
        self.reads = latent
        self.zoom = jnp.zeros((), jnp.int32)

    @property
    def scale(self) -> Float[Array, ""]:
        """2ⁿ: a normalised reward of 1 is worth (1 − γ) 2ⁿ in units of the values, scalar."""
        return jnp.exp2(self.zoom.astype(jnp.float32))

    def logits(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, "members bins"]:
        """Logits of each network, shape (members, bins)."""
        x = jnp.concatenate([z[: self.reads], u])
        return eqx.filter_vmap(lambda member: member(x))(self.members)

    def values(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, " members"]:
        """Each action value in normalised units, shape (members,), in about [−1, 1]."""
        return jax.vmap(self.support.mean)(self.logits(z, u))

    def started_at(self, value: Float[Array, ""]) -> "Critic":
        """The same critic, answering about `value` (scalar, normalised units) everywhere.

        Used once, before the first update, with the mean reward of the data: a value that starts
        at the return of an endless average episode has only the differences left to learn. What is
        answered is smaller by a factor of 1 + bins / 1000, from the 10⁻³ that keep every bin alive.
        Its read-out weights are zero at the start, so the bias alone decides.
        """
        bias = jnp.log(self.support.target(value) + 1e-3)
        members = len(self.members.readout.weight)
        bias = jnp.broadcast_to(bias - jnp.max(bias), (members, self.support.bins))
        return eqx.tree_at(lambda critic: critic.members.readout.bias, self, bias)
