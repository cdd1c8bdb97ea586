"""Models of a wanted size."""

import dataclasses

import jax
import pytest
from families import SIZES, SMALL

from loopwm.actions import ActionLayout
from loopwm.core import CoreConfig
from loopwm.errors import UsageError
from loopwm.models import (
    GridModelConfig,
    LatentMLPConfig,
    LoopedConfig,
    Sizes,
    ValueConfig,
    at_size,
    build_networks,
    count_parameters,
    parameters_of,
    shapes_of,
)


def test_parameters_are_those_of_the_built_model(filled):
    config = LoopedConfig(latent=6, hidden=8, core=CoreConfig(width=6))
    built = filled(lambda key: config.build(SIZES, key=key))
    assert parameters_of(config, SIZES) == count_parameters(built)
    assert count_parameters(shapes_of(config, SIZES)) == count_parameters(built)


@pytest.mark.parametrize("name", [*SMALL, "looped"])
def test_the_nearest_size_is_found(name):
    config = LoopedConfig() if name == "looped" else SMALL[name]
    wanted = 4_000
    found = at_size(config, SIZES, wanted)
    assert type(found) is type(config)
    missed = abs(parameters_of(found, SIZES) - wanted)
    for step in (-1, 1):
        # Sizes in whole groups or heads stay the same for a few widths.
        other = next(
            (
                n
                for w in range(1, 9)
                if (n := found.at_width(max(1, found.width + step * w))) != found
            ),
            found,
        )
        assert missed <= abs(parameters_of(other, SIZES) - wanted)


def test_every_other_setting_stays():
    config = dataclasses.replace(SMALL["ensemble"], members=4, bound_weight=0.5)
    found = at_size(config, SIZES, 3_000)
    assert (found.members, found.bound_weight, found.layers) == (4, 0.5, 1)


def test_sizes_that_cannot_be_built_are_refused(assert_helpful):
    config = SMALL["gru"]
    least = parameters_of(config.at_width(1), SIZES)
    assert at_size(config, SIZES, least) == config.at_width(1)
    for parameters in (least - 1, 0, -5):
        with pytest.raises(UsageError, match=f"at least {least}") as raised:
            at_size(config, SIZES, parameters)
        assert_helpful(raised)
    most = parameters_of(config.at_width(2**14), SIZES)
    assert at_size(config, SIZES, most) == config.at_width(2**14)
    with pytest.raises(UsageError, match=f"at most {most}") as raised:
        at_size(config, SIZES, 10**13)
    assert_helpful(raised)
    with pytest.raises(UsageError, match="no single width") as raised:
        at_size(GridModelConfig(), Sizes(9, 2, (3, 3)), 1_000)
    assert_helpful(raised)


def test_the_published_size_of_td_mpc2():
    # Walker-like sizes. By hand, TD-MPC2 itself has about 4.97 M: encoder 138 k, dynamics 794 k,
    # reward 582 k, policy 534 k, five Q-functions of 582 k each.
    config, sizes = LatentMLPConfig.tdmpc2(), Sizes(17, 6)
    core = shapes_of(config, sizes).core
    first, second = 518 * 512 + 3 * 512, 512 * 512 + 3 * 512
    assert count_parameters(core) == first + 2 * second
    heads = ValueConfig(hidden=512, depth=2, bins=101, members=5)

    def build(key):
        return build_networks(config, heads, sizes, actions=ActionLayout.box(6), key=key)

    networks = jax.eval_shape(lambda key: jax.tree.leaves(build(key)), jax.random.key(0))
    assert count_parameters(networks) == pytest.approx(5e6, rel=0.1)
