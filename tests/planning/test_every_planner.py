"""What holds for every registered planner, and that a further one needs nothing but its file."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import loopwm
from loopwm import settings
from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.planning import (
    PLANNERS,
    AbstractPlanner,
    CandidateReturns,
    Plan,
    PlannerBuilder,
    PlanStats,
)
from loopwm.training import RunConfig

SMALL = {"horizon": 2, "population": 10, "proposals": 2, "iterations": 2, "elites": 4}
SMALL |= {"simulations": 6, "refined": 2, "steps": 2}
CASES = [
    (name, discrete)
    for name, kind in PLANNERS.items()
    for discrete in (False, True)
    if kind().discrete in (discrete, None)
]


def small(kind):
    """The planner's defaults with the sizes that it has made small."""
    names = {field.name for field in dataclasses.fields(kind)}
    change = {key: value for key, value in SMALL.items() if key in names}
    if "sampler" in names:
        change["sampler"] = small(type(kind().sampler))
    return kind(**change)


@dataclasses.dataclass
class Case:
    """A planner on a toy model, deciding for three states in one program."""

    discrete: bool
    planner: AbstractPlanner
    model: object
    traces: int = 0

    def __post_init__(self):
        def plan(model, planner, z, warm_start, explore, keys):
            self.traces += 1
            one = lambda z, w, e, k: planner(model, z, w, e, key=k)  # noqa: E731
            return jax.vmap(one)(z, warm_start, explore, keys)

        # Optimised, it would take the compiler longer than all tests here.
        quick = {"xla_backend_optimization_level": 0}
        self._plan = eqx.filter_jit(plan, compiler_options=quick)

    def __call__(self, z, warm_start, explore, keys):
        return self._plan(self.model, self.planner, z, warm_start, explore, keys)

    def cold(self):
        """Cold starts as an agent keeps them: NumPy arrays."""
        return jax.tree.map(lambda x: np.stack([np.asarray(x)] * 3), self.planner.cold_start())


@pytest.fixture(
    scope="module", params=CASES, ids=lambda c: f"{c[0]}-{'one_hot' if c[1] else 'box'}"
)
def case(request, toys):
    name, discrete = request.param
    actions = ActionLayout.categorical(3) if discrete else ActionLayout.box(2)
    model = toys["tempting"]() if discrete else toys["waves"]()
    planner = small(PLANNERS[name]).build(actions)
    return Case(discrete, planner, model)


STATES = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]])
MIXED = jnp.asarray([False, True, False])


def keys(seed):
    return jax.random.split(jax.random.key(seed), 3)


def test_valid_actions_and_one_program(case):
    plan, warm = None, case.cold()
    for number, explore in enumerate((MIXED, ~MIXED, MIXED)):
        plan = case(STATES + number, warm, explore, keys(number))
        values, warm = np.asarray(plan.value), plan.warm_start
        assert np.all(plan.result == RESULTS.successful)
        if case.discrete:
            np.testing.assert_array_equal(np.sort(values), np.tile([0.0, 0.0, 1.0], (3, 1)))
        else:
            assert values.shape == (3, 2) and np.all(np.abs(values) <= 1.0)
    assert case.traces == 1
    returns = plan.stats.returns
    assert returns.best.shape == returns.mean.shape == returns.spread.shape
    assert returns.best.shape[0] == 3 and returns.best.shape[1] >= 1
    assert np.all(returns.best >= returns.mean - 1e-6) and np.all(returns.spread >= 0.0)
    np.testing.assert_array_equal(plan.stats.best, returns.best[:, -1])
    np.testing.assert_allclose(plan.stats.loops, np.ones(3), rtol=1e-6)


def test_the_key_decides_and_exploring_needs_one(case):
    exploring = jnp.ones(3, bool)
    same = [case(STATES, case.cold(), exploring, keys(7)) for _ in range(2)]
    for a, b in zip(*map(jax.tree.leaves, same), strict=True):
        np.testing.assert_array_equal(a, b)
    drawn = [case(STATES, case.cold(), exploring, keys(seed)).value for seed in range(20)]
    # Somewhere: one of the states has an action so much better that a search never leaves it.
    assert np.any(np.std(np.stack(drawn), axis=0) > 0.0)


def test_a_state_decides_the_same_in_any_company(case):
    together = case(STATES, case.cold(), MIXED, keys(3))
    for i in range(3):
        rows = np.full(3, i)
        alone = case(STATES[rows], case.cold(), MIXED[rows], keys(3)[rows])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a[i], b[0])


@dataclasses.dataclass(frozen=True)
class FollowConfig(PlannerBuilder):
    """A planner from outside the package: the policy's proposal, as it is."""

    gain: float = 1.0

    @property
    def discrete(self):
        return None

    def build(self, actions):
        return Follow(self.gain)


class Follow(AbstractPlanner):
    gain: float = eqx.field(static=True)

    def cold_start(self):
        return jnp.zeros(())

    def __call__(self, model, z, warm_start, explore, *, key):
        found = model.value(z)
        none = jnp.zeros(())
        returns = CandidateReturns(found[None], found[None], none[None])
        return Plan(
            value=self.gain * model.propose(z, key=key),
            result=RESULTS.successful,
            stats=PlanStats(found, found, none, none, returns),
            warm_start=warm_start + 1.0,
        )


def test_a_planner_from_outside_is_a_line_in_the_registry(monkeypatch, cartpole_run):
    monkeypatch.setitem(PLANNERS, "follow", FollowConfig)
    values = {"planning": {"planner": "follow", "follow": {"gain": 0.5}}}
    config = settings.build(RunConfig, values)
    assert config.planning.choose(ActionLayout.categorical(2)) == FollowConfig(gain=0.5)
    assert settings.build(RunConfig, settings.dump(config)) == config
    agent = loopwm.load(cartpole_run.path, planner="follow")
    action, state = agent.act(np.zeros((2, 4), np.float32))
    assert np.asarray(action).shape == (2,) and np.all(np.asarray(state.memory) == 1.0)
    _, state = agent.act(np.zeros((2, 4), np.float32), state)
    assert np.all(np.asarray(state.memory) == 2.0)
