"""Families: shapes of one size, and stacks as wide as the looped model."""

import pytest

from loopwm.errors import UsageError
from loopwm.evaluation.compare import FAMILIES
from loopwm.evaluation.compare.families import build_blocks, check_families
from loopwm.models import LoopedConfig, Sizes, UnsharedConfig, parameters_of
from loopwm.models.registry import WORLD_MODELS

SIZES = Sizes(3, 1)


def test_every_family_is_a_registered_model():
    assert set(FAMILIES) == set(WORLD_MODELS) - {"grid", "tokens"}
    for name, family in FAMILIES.items():
        assert len(family.shapes) == 2
        assert all(type(shape) is WORLD_MODELS[name] for shape in family.shapes)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_shapes_come_near_a_size(name):
    for shape in (0, 1):
        built = FAMILIES[name].build(shape, SIZES, 20_000)
        assert abs(parameters_of(built, SIZES) - 20_000) < 3_000


def test_stacks_are_as_wide_as_the_looped_model():
    looped = build_blocks("looped", 8, SIZES, 5_000)
    assert isinstance(looped, LoopedConfig) and looped.depth == 8
    once = build_blocks("looped", 1, SIZES, 5_000)
    assert parameters_of(looped, SIZES) == parameters_of(once, SIZES)
    stack = build_blocks("unshared", 3, SIZES, 5_000)
    assert isinstance(stack, UnsharedConfig) and stack.core == looped.core
    assert (stack.latent, stack.hidden, stack.blocks) == (looped.latent, looped.hidden, 3)


def test_names_are_checked(assert_helpful):
    assert check_families(["gru", "looped", "gru"]) == ("gru", "looped")
    with pytest.raises(UsageError, match="no family 'dreamer'") as raised:
        check_families(["dreamer"])
    assert_helpful(raised)
