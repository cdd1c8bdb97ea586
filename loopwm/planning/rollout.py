"""Rollouts in imagination and their returns."""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.planning.seam import AbstractPlanningModel, Separable


class Scoring(enum.StrEnum):
    """Where the return of an imagined sequence asks for rewards and continuations."""

    EACH_STEP = "each_step"
    """At every step."""
    TERMINAL = "terminal"
    """At the last step alone: K transitions, one evaluation of the outcome head."""


class Score(eqx.Module):
    """Return of one imagined action sequence."""

    value: Float[Array, ""]
    """Discounted return with the terminal value, scalar."""
    loops: Float[Array, ""]
    """Inner loops a transition, mean over the horizon, scalar."""


class Rollouts(eqx.Module):
    """Imagined action sequences with their returns."""

    actions: Float[Array, "sequences horizon action"]
    """u_0 … u_{K−1} of each, shape (sequences, horizon, action)."""
    value: Float[Array, " sequences"]
    """Discounted returns with the terminal value, shape (sequences,)."""
    loops: Float[Array, " sequences"]
    """Inner loops a transition, mean over the horizon, shape (sequences,)."""

    def first(self, count: int) -> "Rollouts":
        """The first of them."""
        return Rollouts(self.actions[:count], self.value[:count], self.loops[:count])

    def then(self, others: "Rollouts") -> "Rollouts":
        """These, then the others."""
        return Rollouts(
            actions=jnp.concatenate([self.actions, others.actions]),
            value=jnp.concatenate([self.value, others.value]),
            loops=jnp.concatenate([self.loops, others.loops]),
        )


def score(
    model: AbstractPlanningModel,
    z: Float[Array, " latent"],
    actions: Float[Array, "horizon action"],
    scoring: Scoring = Scoring.EACH_STEP,
) -> Score:
    r"""Return of an action sequence in imagination.

    $$\sum_{k<K} \gamma^k \Big(\prod_{j<k} c_j\Big) r_k
      + \gamma^K \Big(\prod_{j<K} c_j\Big) V(z_K)$$

    with $c_j$ the continuation of step j. Terminal scoring (deferred decoding) takes $r_k = 0$ and
    $c_k = 1$ for k < K − 1, and asks for both at the last step alone. It ranks sequences as the
    full sum does where rewards come only at the horizon, or are the same for every action until
    then, and the task does not end before it; elsewhere what happens before the last step counts
    through V alone.

    Args:
        model: the planning model.
        z: latent state at k = 0, shape (latent,).
        actions: u_0 … u_{K−1}, shape (horizon, action).
        scoring: where rewards and continuations are asked for.

    Returns:
        The return and the loops spent.
    """
    found = rollouts(model, z, actions[None], scoring)
    return Score(value=found.value[0], loops=found.loops[0])


def rollouts(
    model: AbstractPlanningModel,
    z: Float[Array, " latent"],
    given: Float[Array, "given horizon action"],
    scoring: Scoring = Scoring.EACH_STEP,
    *,
    proposals: int = 0,
    key: PRNGKeyArray | None = None,
) -> Rollouts:
    """Imagines action sequences side by side: some that the policy prior acts out, and given ones.

    All transitions of a step are one batch, and the outcomes of all steps another, where the model
    lets them be asked for afterwards (`Separable`).

    Args:
        model: the planning model.
        z: latent state at k = 0, shape (latent,).
        given: action sequences, shape (given, horizon, action).
        scoring: where rewards and continuations are asked for; see `score`.
        proposals: sequences whose actions are drawn from the policy prior on their way.
        key: PRNG key of these draws; not needed without proposals.

    Returns:
        The proposals, then the given sequences, with the returns that `score` defines.
    """
    count, horizon = proposals + len(given), given.shape[1]
    steps: tuple[Array, ...] = (jnp.swapaxes(given, 0, 1),)
    if proposals:
        assert key is not None
        steps += (jax.random.split(key, (horizon, proposals)),)

    def body(states, step):
        u, *keys = step
        if proposals:
            drawn = jax.vmap(lambda s, k: model.propose(s, key=k))(states[:proposals], *keys)
            u = jnp.concatenate([drawn, u])
        following, *found = jax.vmap(_transition(model))(states, u)
        return following, (states, u, following, *found)

    start = jnp.broadcast_to(z, (count, *z.shape))
    last, (before, actions, after, loops, *outcomes) = jax.lax.scan(body, start, steps)
    if member(Scoring, scoring, "scoring") is Scoring.TERMINAL:
        before, after, acted = before[-1:], after[-1:], actions[-1:]
        outcomes = [outcome[-1:] for outcome in outcomes]
    else:
        acted = actions
    if isinstance(model, Separable):
        outcomes = jax.vmap(jax.vmap(model.outcome))(before, acted, after)
    reward, continuation = outcomes
    value = _discounted(model, reward, continuation, jax.vmap(model.value)(last), horizon)
    return Rollouts(jnp.swapaxes(actions, 0, 1), value, jnp.mean(loops, axis=0))


def _transition(model: AbstractPlanningModel):
    """The part of a step that the next one waits for, and the outcome if it comes with it."""
    if isinstance(model, Separable):
        return model.advance

    def step(z, u):
        imagined = model.step(z, u)
        return imagined.z, imagined.loops, imagined.reward, imagined.continuation

    return step


def _discounted(
    model: AbstractPlanningModel,
    reward: Float[Array, "steps sequences"],
    continuation: Float[Array, "steps sequences"],
    terminal: Float[Array, " sequences"],
    horizon: int,
) -> Float[Array, " sequences"]:
    """Returns of the last `steps` of `horizon` steps; before them nothing is paid or ends."""
    weights = jnp.cumprod(model.discount * continuation, axis=0)
    paid = reward[0] + jnp.sum(weights[:-1] * reward[1:], axis=0) + weights[-1] * terminal
    return model.discount ** (horizon - len(reward)) * paid
