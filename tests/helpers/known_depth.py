"""A world model of which every depth is known, and transitions for it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.core import RESULTS, LoopStats, Solution
from loopwm.evaluation import DepthAnalysis, DepthConfig, RealTransitions, measure_depth
from loopwm.models import AbstractWorldModel, Normalizer, Outcome


class Loopless(AbstractWorldModel):
    """Predicts that nothing changes, without a loop."""

    latent: int = eqx.field(static=True, default=2)
    depth: int = eqx.field(static=True, default=1)
    core: Any = None

    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """The observation."""
        return observation

    def transition(self, z, u, rule=None) -> Solution:
        """z itself."""
        return _solution(z, jnp.ones((), jnp.int32), jnp.zeros(()), jnp.asarray(jnp.inf))

    def decode(self, z: Float[Array, " latent"]) -> Float[Array, " observation"]:
        """z itself."""
        return z

    def outcome(self, z, u, z_next) -> Outcome:
        """Nothing."""
        return Outcome(jnp.zeros(()), jnp.zeros(()))


class Known(AbstractWorldModel):
    """After t loops each entry is off by errors[t] · u, and the residual is u · 2^−t."""

    errors: Float[Array, " depths"]
    depth: int = eqx.field(static=True, default=3)
    latent: int = eqx.field(static=True, default=2)
    core: Any = None

    encode = Loopless.encode
    transition = Loopless.transition
    decode = Loopless.decode
    outcome = Loopless.outcome

    def unroll(self, z, u, depth, read):
        """Every depth, as written down; the last error stays."""
        t = jnp.minimum(jnp.arange(depth + 1), len(self.errors) - 1)

        def one(loops, error):
            seen = jnp.where(loops == 0, jnp.inf, u[0] * 0.5**loops)
            return read(_solution(z + error * u[0], loops, seen, 10.0 * seen))

        return jax.vmap(one)(jnp.arange(depth + 1), self.errors[t])


def _solution(value, loops, residual, bound) -> Solution:
    stats = LoopStats(loops=loops, residual=residual, error_bound=bound)
    return Solution(value=value, result=RESULTS.successful, stats=stats)


def transitions(sizes, true_depth=None) -> RealTransitions:
    """Transitions that change nothing, under actions of these sizes."""
    count = len(sizes)
    still = np.zeros((count, 2), np.float32)
    return RealTransitions(
        observation=still,
        action=np.asarray(sizes, np.float32)[:, None],
        next_observation=still,
        true_depth=None if true_depth is None else np.asarray(true_depth, np.int64),
        origin=f"{count} transitions <made up>",
    )


# Without the 1e-8 that it adds to variances.
NORMALIZER = Normalizer(np.zeros(2), np.full(2, 1.0 - 1e-8), np.asarray(1.0))
FALLING = [1.0, 0.5, 0.25, 0.125, 0.25, 0.125]
SIZES, DEPTHS = [1.0, 2.0, 4.0, 8.0], [2, 3, 5, 9]
SMALL = DepthConfig(loops=12)


def analyse(
    errors=FALLING, sizes=SIZES, true_depth=None, certificate=None, **changes
) -> DepthAnalysis:
    """The analysis of a model with these errors; `config` and `trained` may be changed."""
    model = Known(jnp.asarray(errors, jnp.float32))
    given = transitions(sizes, true_depth)
    config = dataclasses.replace(SMALL, **changes.pop("config", {}))
    return measure_depth(model, NORMALIZER, given, certificate, config=config, **changes)
