"""FLOPs of a training."""

import pytest

from loopwm.core import CoreConfig
from loopwm.evaluation.compare.cost import training_flops
from loopwm.models import LoopedConfig, Sizes


@pytest.fixture(scope="module")
def model(filled):
    config = LoopedConfig(latent=6, hidden=64, depth=2, core=CoreConfig(width=6))
    return filled(lambda key: config.build(Sizes(40, 2), key=key))


def test_imagined_steps_count_once_and_are_not_decoded(model):
    learning = training_flops(model, 2, 100)
    assert training_flops(model, 2, 200) == pytest.approx(2 * learning)
    both = training_flops(model, 2, 100, imagined=100)
    # The decoder is the larger part of this model: 64 hidden units to 40 numbers.
    decoder = 2 * 100 * 64 * 40
    assert learning < both < learning + (learning / 3 - decoder)
    twice = training_flops(model, 2, 100, imagined=200)
    assert twice - learning == pytest.approx(2 * (both - learning))
