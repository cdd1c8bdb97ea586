"""Choices given by their texts are the members, and other texts are refused, from Python too."""

import jax
import pytest

from loopwm.envs import make_vector
from loopwm.errors import UsageError
from loopwm.models import RSSMConfig, Sizes
from loopwm.models.conventional.rssm import Code
from loopwm.models.observations import build_decoder
from loopwm.nn import MLP
from loopwm.planning import Bonus, CoarseConfig, PlanningConfig
from loopwm.training import DeferredConfig, SupervisedConfig, TrainingDepth
from loopwm.training.deferred import Curriculum
from loopwm.training.depth import DepthLaw
from loopwm.training.supervised import Decoding

pytestmark = pytest.mark.usefixtures("without_type_checks")


REFUSED = {
    "law": lambda: TrainingDepth(law="unifrom"),
    "curriculum": lambda: DeferredConfig(steps=3, curriculum="cubic"),
    "decoding": lambda: SupervisedConfig(decoding="never"),
    "bonus": lambda: PlanningConfig(bonus="curiosity"),
    "imagination": lambda: RSSMConfig(imagination="sample"),
    "scoring": lambda: CoarseConfig(scoring="mean").check(
        "planning.mppi", iterations=2, population=8, elites=2
    ),
    "rescoring": lambda: CoarseConfig(rescoring="first").check(
        "planning.mppi", iterations=2, population=8, elites=2
    ),
    "vector": lambda: make_vector("CartPole-v1", 2, kind="threads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_choice_is_refused(name, assert_helpful):
    with pytest.raises(UsageError, match=f"{name} is '.*'; choose one of '") as raised:
        REFUSED[name]()
    assert_helpful(raised)


@pytest.mark.parametrize(
    "made, name, expected",
    [
        (lambda: TrainingDepth(law="poisson"), "law", DepthLaw.POISSON),
        (lambda: DeferredConfig(steps=3, curriculum="linear"), "curriculum", Curriculum.LINEAR),
        (lambda: SupervisedConfig(decoding="each_step"), "decoding", Decoding.EACH_STEP),
        (lambda: PlanningConfig(bonus="residual"), "bonus", Bonus.RESIDUAL),
        (lambda: RSSMConfig(imagination="mode"), "imagination", Code.MODE),
    ],
)
def test_a_text_is_its_member(made, name, expected):
    assert getattr(made(), name) is expected


def test_a_view_may_be_a_text():
    sizes, key = Sizes(3, 1, shape=(3,)), jax.random.key(0)
    assert isinstance(build_decoder(4, sizes, "vector", hidden=8, key=key), MLP)
    with pytest.raises(UsageError, match="no image"):
        build_decoder(4, sizes, "image", hidden=8, key=key)
    with pytest.raises(UsageError, match=r"model\.view is 'pixels'"):
        build_decoder(4, sizes, "pixels", hidden=8, key=key)
