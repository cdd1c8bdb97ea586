"""Modes, layers and other choices may be given by their texts, which equal members but are none."""

import jax
import pytest

from loopwm.core import (
    ActionMap,
    ConvolutionConfig,
    CoreConfig,
    GradientKind,
    InfinityConfig,
    LayerKind,
    LoopGradient,
    Meeting,
    Preset,
    TokenConfig,
)
from loopwm.core.flat import CellActions
from loopwm.errors import UsageError
from loopwm.stability import Mode

pytestmark = pytest.mark.usefixtures("without_type_checks")


def _cell_actions(kind):
    return CellActions(4, (2, 2), kind, channels=1, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("made", "name", "member"),
    [
        (lambda: CoreConfig(mode="contractive"), "mode", Mode.CONTRACTIVE),
        (lambda: CoreConfig(layer="sll"), "layer", LayerKind.SLL),
        (lambda: ConvolutionConfig(mode="bounded"), "mode", Mode.BOUNDED),
        (lambda: TokenConfig(dimensions=1, preset="cross"), "preset", Preset.CROSS),
        (lambda: InfinityConfig(meeting="neighbours"), "meeting", Meeting.NEIGHBOURS),
        (lambda: LoopGradient("implicit"), "kind", GradientKind.IMPLICIT),
        (lambda: _cell_actions("pointed"), "kind", ActionMap.POINTED),
    ],
)
def test_a_text_is_the_choice_that_it_names(made, name, member):
    assert getattr(made(), name) is member


@pytest.mark.parametrize(
    "make",
    [
        lambda: CoreConfig(mode="stable"),
        lambda: CoreConfig(layer="dense"),
        lambda: ConvolutionConfig(mode="stable"),
        lambda: TokenConfig(dimensions=1, preset="both"),
        lambda: InfinityConfig(meeting="never"),
        lambda: LoopGradient("some"),
        lambda: _cell_actions("none"),
    ],
)
def test_what_is_no_choice_is_refused(make, assert_helpful):
    with pytest.raises(UsageError) as raised:
        make()
    assert_helpful(raised.value)
