"""What a world model costs: FLOPs and time of imagined transitions, FLOPs of training, memory."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from loopwm.evaluation.flops import flops_of_transition, unrolled
from loopwm.models import AbstractWorldModel
from loopwm.models.networks import count_parameters
from loopwm.nn import resolve

_BATCH, _STEPS, _REPEATS = 64, 16, 5


def parameters(model: AbstractWorldModel) -> dict[str, int]:
    """Trainable scalars: of the world model, and of its dynamics core alone."""
    return {"params": count_parameters(model), "params_core": count_parameters(model.core)}


def transition_costs(model: AbstractWorldModel, action: int) -> dict[str, float]:
    """FLOPs and CPU microseconds of one imagined transition, without reading the outcome.

    The time is the smallest of 5 of a compiled rollout of 64 states over 16 steps, a transition.

    Args:
        model: the trained model.
        action: size of an encoded action.
    """
    resolved = eqx.filter_jit(resolve)(model)
    z = jnp.full((_BATCH, model.latent), 0.1)
    u = jnp.full((_BATCH, action), 0.1)

    @eqx.filter_jit
    def rollout(model: AbstractWorldModel, z: jax.Array, u: jax.Array) -> jax.Array:
        def step(state, _):
            return jax.vmap(lambda a, b: model.transition(a, b).value)(state, u), None

        return jax.lax.scan(step, z, length=_STEPS)[0]

    jax.block_until_ready(rollout(resolved, z, u))
    times = []
    for _ in range(_REPEATS):
        began = time.process_time()
        jax.block_until_ready(rollout(resolved, z, u))
        times.append(time.process_time() - began)
    return {
        "flops_transition": flops_of_transition(model, action),
        "us_transition": 1e6 * min(times) / (_BATCH * _STEPS),
    }


def training_flops(
    model: AbstractWorldModel, action: int, predictions: int, *, imagined: int = 0
) -> float:
    """FLOPs of a training, as three times those of all predictions that it learns from.

    A prediction is a transition with its outcome and its decoded observation, as XLA counts them;
    the gradient is taken for twice the prediction, as is usual. Steps that are imagined for the
    critic and the policy count once and are not decoded. The model's own loss term, the
    encoder, the optimiser, and the norms of constrained weights, which are computed once an update
    (1.6 to 6.8 % for the looped model on NLinkPendulum), are not in it.

    Args:
        model: the world model.
        action: size of an encoded action.
        predictions: transitions in the whole training that the model learns from.
        imagined: transitions in it that are imagined without a gradient.
    """

    def imagine(model: AbstractWorldModel, z: jax.Array, u: jax.Array) -> tuple[Any, Any]:
        following = model.transition(z, u).value
        return following, model.outcome(z, u, following)

    def predict(model: AbstractWorldModel, z: jax.Array, u: jax.Array) -> object:
        following, outcome = imagine(model, z, u)
        return outcome, model.decode(following)

    shapes = eqx.filter_eval_shape(resolve, model)
    inputs = tuple(jax.ShapeDtypeStruct((size,), jnp.float32) for size in (model.latent, action))

    def flops(function: Callable[..., object]) -> float:
        flat, leaves = unrolled(function, shapes, *inputs)
        counted: Any = jax.jit(flat).lower(*leaves).compile().cost_analysis()
        return float(counted["flops"])

    learning = 3.0 * flops(predict) * predictions
    return learning + flops(imagine) * imagined if imagined else learning


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
