"""A learned gate that says after each loop whether to stop, and how it is trained."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from loopwm.core.depth import AbstractDepthRule
from loopwm.errors import UsageError


class HaltingGate(eqx.Module):
    r"""Exit probability of a state: $\lambda(h) = \sigma(w^\top \bar h + b)$.

    $\bar h$ is the mean of h over all axes but the last (cells, tokens), so that one gate serves
    vectors, tokens and grids of every size.

    Source: LoopWM (arXiv 2606.18208), the learned exit gate; Banino et al. 2021, PonderNet
        (arXiv 2107.05407), section 2.
    """

    weight: Float[Array, " width"]
    """w, shape (width,)."""
    bias: Float[Array, ""]
    """b, scalar."""

    def __init__(self, width: int, *, loops: float = 4.0):
        """A gate that knows nothing yet: w = 0, and λ = 1 / (1 + loops) for every state.

        Args:
            width: size of the state's last axis.
            loops: mean number of loops that it goes on for at first, positive.

        Raises:
            UsageError: width or loops is not positive.
        """
        if width < 1 or not loops > 0:
            raise UsageError(f"width is {width} and loops {loops}; give positive numbers.")
        self.weight = jnp.zeros(width)
        self.bias = -jnp.log(jnp.asarray(loops, jnp.float32))

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """Logit of λ, scalar, from h of shape (..., width)."""
        pooled = jnp.mean(h, axis=tuple(range(h.ndim - 1)))
        return self.weight @ pooled + self.bias


def exit_log_probabilities(logits: Float[Array, " loops"]) -> Float[Array, " loops"]:
    r"""Logarithm of the probability to exit after each loop.

    $$p_t = \lambda_t \prod_{j<t} (1 - \lambda_j) \quad (t < T), \qquad
    p_T = \prod_{j<T} (1 - \lambda_j),$$

    so that the last loop takes what is left and they sum to 1.

    Args:
        logits: of λ_1 … λ_T, shape (T,); the last one has no influence.

    Returns:
        log p_1 … log p_T, shape (T,).

    Source: PonderNet (arXiv 2107.05407), equation 1, cut off at T.
    """
    goes_on = jnp.cumsum(jax.nn.log_sigmoid(-logits))
    so_far = jnp.concatenate([jnp.zeros_like(goes_on[:1]), goes_on[:-1]])
    exits = jax.nn.log_sigmoid(logits).at[-1].set(0.0)
    return so_far + exits


def expected_loss(
    log_probabilities: Float[Array, " loops"], losses: Float[Array, " loops"]
) -> Float[Array, ""]:
    """Σ_t p_t L_t, scalar, from log p_t and the loss L_t of exiting after loop t, both (T,)."""
    return jnp.sum(jnp.exp(log_probabilities) * losses)


def exit_entropy(log_probabilities: Float[Array, " loops"]) -> Float[Array, ""]:
    """−Σ_t p_t log p_t in nats, scalar in [0, log T], from log p_t of shape (T,)."""
    return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities)


def halting_loss(
    logits: Float[Array, " loops"],
    losses: Float[Array, " loops"],
    entropy_weight: float = 0.01,
) -> Float[Array, ""]:
    r"""Training loss of a gate: $\sum_t p_t L_t - \beta H(p)$.

    The entropy keeps the gate from settling on one loop before the losses have told them apart.

    Args:
        logits: gate's logits after loops 1 … T, shape (T,).
        losses: L_t, the loss of what is read out after loop t, shape (T,).
        entropy_weight: β, in units of the loss a nat.

    Returns:
        The loss, scalar.
    """
    log_probabilities = exit_log_probabilities(logits)
    return expected_loss(log_probabilities, losses) - entropy_weight * exit_entropy(
        log_probabilities
    )


class GateHalting(AbstractDepthRule):
    """Stops when a learned gate's exit probability is at least the threshold; promises nothing."""

    threshold: float = eqx.field(static=True)
    """Smallest exit probability λ_t that stops, in (0, 1)."""
    max_depth: int = eqx.field(static=True, default=64)
    gate: HaltingGate | None = None
    """The gate; a core that has one puts its own in place of None."""
    patience: ClassVar[int] = 1
    forward_only: ClassVar[bool] = True

    def __check_init__(self):
        """Refuses a limit below 1 and a threshold that is no probability."""
        if self.max_depth < 1:
            raise UsageError(f"depth is {self.max_depth}; give at least 1 loop.")
        if not 0.0 < self.threshold < 1.0:
            raise UsageError(f"threshold is {self.threshold}; give a probability in (0, 1).")

    def terminate(self, view) -> Bool[Array, ""]:
        """Stops on a large exit probability.

        Raises:
            UsageError: there is no gate.
        """
        if self.gate is None:
            raise UsageError(NO_GATE)
        return jax.nn.sigmoid(self.gate(view.h)) >= self.threshold


NO_GATE = (
    "Halting by a gate needs a trained one, and this core has none; use another depth rule, or "
    "train with model.core.gate=true."
)


def with_gate(rule: AbstractDepthRule, gate: HaltingGate | None) -> AbstractDepthRule:
    """The rule, with the gate given to it if it waits for one."""
    if gate is None or not isinstance(rule, GateHalting) or rule.gate is not None:
        return rule
    return GateHalting(threshold=rule.threshold, max_depth=rule.max_depth, gate=gate)
