"""A small looped world model, and wilder versions of it."""

import equinox as eqx
import jax
import pytest

from loopwm.core import CoreConfig
from loopwm.models import LoopedConfig, LoopedWorldModel, Sizes


@pytest.fixture(scope="session")
def small_config() -> LoopedConfig:
    return LoopedConfig(latent=8, hidden=8, depth=2, core=CoreConfig(width=8))


@pytest.fixture(scope="session")
def small_model(small_config, filled) -> LoopedWorldModel:
    return filled(lambda key: small_config.build(Sizes(4, 2), key=key))


@pytest.fixture(scope="session")
def multiplied(small_model):
    """The small model with every weight multiplied by a factor."""

    def build(factor: float) -> LoopedWorldModel:
        return jax.tree.map(lambda x: x * factor if eqx.is_inexact_array(x) else x, small_model)

    return build
