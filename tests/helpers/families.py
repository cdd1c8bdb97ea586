"""Small models of every conventional family, and a small known system for them to learn."""

import jax.numpy as jnp
import numpy as np

from loopwm.core import CoreConfig
from loopwm.models import (
    EnsembleConfig,
    GRUConfig,
    LatentMLPConfig,
    RSSMConfig,
    SinglePassConfig,
    Sizes,
    TransformerConfig,
    UnsharedConfig,
    WidthMatchedConfig,
)
from loopwm.training import Trajectories

SIZES = Sizes(3, 2)
_STACK = {"latent": 6, "hidden": 8, "core": CoreConfig(width=6, layers=1)}
SMALL = {
    "latent_mlp": LatentMLPConfig(latent=8, hidden=8, width=10, layers=2, group=4),
    "gru": GRUConfig(latent=6, hidden=8, width=5),
    "rssm": RSSMConfig(groups=3, classes=4, width=5, hidden=8),
    "transformer": TransformerConfig(latent=5, hidden=8, width=6, layers=2, heads=2, window=3),
    "ensemble": EnsembleConfig(latent=5, hidden=8, width=8, layers=1, members=3),
    "unshared": UnsharedConfig(blocks=3, **_STACK),
    "single_pass": SinglePassConfig(**_STACK),
    "width_matched": WidthMatchedConfig(loops=3, **_STACK),
}
"""A model of seconds for each family."""


def swinging(count: int, steps: int, seed: int) -> Trajectories:
    """A damped pendulum under random torques: (cos θ, sin θ, ω) and two actions.

    Args:
        count: sequences.
        steps: actions of each.
        seed: seed of starts and actions.

    Returns:
        Observations (count, steps + 1, 3) and actions (count, steps, 2), of which one does nothing.
    """
    rng = np.random.default_rng(seed)
    angle, speed = rng.uniform(-np.pi, np.pi, count), rng.uniform(-1.5, 1.5, count)
    action = rng.uniform(-1.0, 1.0, (count, steps, 2))
    seen = []
    for step in range(steps + 1):
        seen.append(np.stack([np.cos(angle), np.sin(angle), speed], axis=-1))
        if step < steps:
            speed = 0.95 * speed + 0.3 * np.sin(angle) + 0.5 * action[:, step, 0]
            angle = angle + 0.3 * speed
    return Trajectories(
        jnp.asarray(np.stack(seen, axis=1), jnp.float32), jnp.asarray(action, jnp.float32)
    )
