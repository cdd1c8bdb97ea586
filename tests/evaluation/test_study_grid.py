"""The stability study takes models on grids and tokens as it takes those on vectors."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import ConvolutionConfig, Preset, TokenConfig
from loopwm.evaluation.rollouts import Visits
from loopwm.evaluation.study_config import StudyConfig
from loopwm.evaluation.study_model import inner_inputs
from loopwm.models import GridModelConfig, Sizes, TokenModelConfig
from loopwm.nn import resolve

SMALL = {"channels": 4, "inputs": 3, "readout": 4}
GRID = GridModelConfig(channels=3, hidden=4, core=ConvolutionConfig(hidden=4, **SMALL))
TOKENS = TokenModelConfig(
    tokens=5, width=2, hidden=4, core=TokenConfig(preset=Preset.SELF, heads=2, **SMALL)
)


@pytest.mark.parametrize(
    ("config", "cells"), [(GRID, (2, 3)), (TOKENS, (5,))], ids=["grid", "tokens"]
)
def test_inputs_of_the_inner_loop_have_the_shape_of_its_state(config, cells, filled, key, rng):
    build = filled(lambda k: config.build(Sizes(6, 2, (2, 3)), key=k))
    model = eqx.filter_jit(resolve)(build)
    z = jnp.asarray(rng.normal(size=(3, model.latent)), jnp.float32)
    visits = Visits(z=z, u=jnp.asarray(np.eye(2)[[0, 1, 0]], jnp.float32))
    settings = dataclasses.replace(StudyConfig(), visited=2, drawn=2)
    inputs = inner_inputs(
        model, model.core, visits, settings, actions=ActionLayout.categorical(2), key=key
    )
    assert [one.kind for one in inputs] == ["visited"] * 2 + ["random"] * 2 + ["far"] * 2
    step = eqx.filter_jit(lambda update, h: (update(h), update.norm(h)))
    for one in inputs:
        after, size = step(one.update, jnp.asarray(one.start))
        assert after.shape == one.start.shape == (*cells, 4) and one.depth == 4
        assert (float(size) > 0.0) == (one.kind == "far")
