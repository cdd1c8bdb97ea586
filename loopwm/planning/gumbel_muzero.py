"""Gumbel MuZero: a search tree over discrete actions."""

import dataclasses
import importlib
import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.errors import UsageError
from loopwm.models.ranges import check_not_negative, check_positive
from loopwm.planning.planner import (
    AbstractPlanner,
    CandidateReturns,
    Plan,
    PlannerBuilder,
    PlanStats,
)
from loopwm.planning.seam import AbstractPlanningModel, DiscretePrior


@dataclasses.dataclass(frozen=True)
class GumbelMuZeroConfig(PlannerBuilder):
    """Settings of Gumbel MuZero search."""

    simulations: int = 32
    """n: simulations a decision, one imagined transition each."""
    considered: int = 16
    """m: actions at the root that sequential halving begins with, at most."""
    max_depth: int | None = None
    """Longest path from the root; as long as the simulations allow when null."""
    value_scale: float = 0.1
    """c_scale: weight of returns against the prior's log-probabilities."""
    visits: float = 50.0
    """c_visit: visits that the largest number of visits is raised by in that weight."""
    max_actions: int = 256
    """Largest number of joint actions of several groups that is enumerated."""

    def __post_init__(self):
        """Refuses sizes that cannot work."""
        name = "planning.gumbel_muzero"
        for key in ("simulations", "considered", "max_depth", "max_actions"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"{name}.{key} is {value}; it needs to be at least 1.")
        check_positive(f"{name}.", self, "value_scale")
        check_not_negative(f"{name}.", self, "visits")

    @property
    def discrete(self) -> bool:
        """True: one-hot actions."""
        return True

    def build(self, actions: ActionLayout) -> "GumbelMuZero":
        """Builds the planner; several groups become one choice among their joint actions.

        Raises:
            UsageError: they have too many joint actions, or are no one-hot groups.
        """
        groups = actions.groups
        if groups is None:
            raise UsageError("A search tree cannot branch over Box actions; use mppi or icem.")
        joint = math.prod(groups)
        if len(groups) > 1 and joint > self.max_actions:
            raise UsageError(
                f"A search tree over {joint} joint actions is too wide, more than "
                f"planning.gumbel_muzero.max_actions ({self.max_actions}); use categorical_cem."
            )
        return GumbelMuZero(config=self, groups=groups)


class Node(eqx.Module):
    """What the tree keeps of a state."""

    z: Float[Array, "batch latent"]
    loops: Float[Array, " batch"]
    """Inner loops of the transition that led here."""


class GumbelMuZero(AbstractPlanner):
    r"""Gumbel MuZero search in the latent space, through `mctx`.

    At the root, with prior $\pi$ and Gumbel noise g (none unless exploring), sequential halving
    spends the n simulations on the m actions of largest $g(a) + \log \pi(a)$, then on the better
    half of them by

    $$g(a) + \log \pi(a) + \sigma(\hat q(a)), \qquad
      \sigma(q) = (c_{visit} + \max_b N(b))\, c_{scale}\, q,$$

    and acts with the best of those visited most. Below the root it follows
    $\pi' = \mathrm{softmax}(\log \pi + \sigma(q))$ by the action with the largest
    $\pi'(a) - N(a) / (1 + \sum_b N(b))$. Returns q are completed, where an action has no visit, by
    the mixed value estimate, and scaled to [0, 1] within a node. A simulation expands one leaf:

    $$z' = f(z, u_a), \quad q(a) = r + \gamma\, c\, V(z'),$$

    with the critic's V, the policy's π, and the continuation c in the discount. The tree is not
    kept for the next decision.

    `mctx` searches for batches; here it gets a batch of one, and `jax.vmap` widens every operation
    of it, so that a batch of environments costs what a batch of mctx's own does.

    Source: Danihelka et al. 2022, "Policy improvement by planning with Gumbel" (ICLR), sections 3
        to 5 and appendix D, equations 8, 10 and 14; computed by `mctx.gumbel_muzero_policy`.
    """

    config: GumbelMuZeroConfig = eqx.field(static=True)
    groups: tuple[int, ...] = eqx.field(static=True)
    """Sizes of the one-hot groups of u."""

    @property
    def actions(self) -> Float[np.ndarray, "choices action"]:
        """Encoded joint actions, shape (choices, action)."""
        rows = [np.eye(size, dtype=np.float32) for size in self.groups]
        return np.stack([np.concatenate(parts) for parts in itertools.product(*rows)])

    def cold_start(self) -> tuple[()]:
        """Nothing: a tree is grown anew for every decision."""
        return ()

    def __call__(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        warm_start: tuple[()],
        explore: Array,
        *,
        key: PRNGKeyArray,
    ) -> Plan:
        """Grows a tree and takes the root's best action.

        Raises:
            UsageError: the model's policy has no probabilities.
        """
        mctx = _mctx()
        prior = _prior(model)
        actions = jnp.asarray(self.actions)

        def expand(_, key, choice, node):
            del key
            imagined = jax.vmap(model.step)(node.z, actions[choice])
            output = mctx.RecurrentFnOutput(
                reward=imagined.reward,
                discount=model.discount * imagined.continuation,
                prior_logits=jax.vmap(prior.log_prior)(imagined.z) @ actions.T,
                value=jax.vmap(model.value)(imagined.z),
            )
            return output, Node(imagined.z, imagined.loops)

        root = mctx.RootFnOutput(
            prior_logits=(actions @ prior.log_prior(z))[None],
            value=model.value(z)[None],
            embedding=Node(z[None], jnp.zeros(1)),
        )
        config = self.config
        found = mctx.gumbel_muzero_policy(
            (),
            key,
            root,
            expand,
            num_simulations=config.simulations,
            max_depth=config.max_depth,
            qtransform=self._completed,
            max_num_considered_actions=config.considered,
            gumbel_scale=jnp.where(explore, 1.0, 0.0),
        )
        stats = _stats(found.search_tree)
        finite = jnp.isfinite(stats.mean) & jnp.isfinite(root.value[0])
        return Plan(
            value=actions[found.action[0]],
            result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
            stats=stats,
            warm_start=(),
        )

    def _completed(self, tree, node):
        """Scaled returns of all actions at a node of the tree, σ(q)."""
        return _mctx().qtransform_completed_by_mix_value(
            tree, node, value_scale=self.config.value_scale, maxvisit_init=self.config.visits
        )


def _mctx() -> Any:
    """The search library.

    Imported late: it takes a third of a second, and the other planners do without it. Untyped:
    the fields of its dataclasses, made by chex, are not seen by a type checker.
    """
    return importlib.import_module("mctx")


def _prior(model: AbstractPlanningModel) -> DiscretePrior:
    if isinstance(model, DiscretePrior):
        return model
    raise UsageError(
        "The planner gumbel_muzero needs the probabilities of a discrete policy, which this model "
        "lacks; use categorical_cem."
    )


def _stats(tree) -> PlanStats:
    """Returns of the visited actions at the root, weighted by their visits."""
    summary = tree.summary()
    returns, weights = summary.qvalues[0], summary.visit_probs[0]
    visited = weights > 0
    best = jnp.max(jnp.where(visited, returns, -jnp.inf))
    mean = jnp.sum(jnp.where(visited, weights * returns, 0.0))
    deviation = jnp.where(visited, weights * (returns - mean) ** 2, 0.0)
    spread = jnp.sqrt(jnp.sum(deviation))
    # Simulations stopped by the largest depth reach a node again: fewer nodes than simulations.
    expanded = jnp.arange(tree.num_simulations + 1)[None] > 0
    expanded = expanded & (tree.node_visits > 0)
    loops = jnp.sum(jnp.where(expanded, tree.embeddings.loops, 0.0)) / jnp.sum(expanded)
    return PlanStats(
        best=best,
        mean=mean,
        loops=loops,
        spread=spread,
        returns=CandidateReturns(best[None], mean[None], spread[None]),
    )
