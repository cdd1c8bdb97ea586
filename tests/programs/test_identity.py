"""Names of programs: what they follow from, and what has none."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import pytest

from loopwm.core import FixedDepth
from loopwm.nn import infinity
from loopwm.programs import identity, program_name
from loopwm.training import learner, losses

SLOW, FAST = ({"weight": jnp.array(weight), "name": None} for weight in ([0.0, 2.0], [1.0, 4.0]))
RATE = 0.5


def name(*arguments, function=learner._towards):
    return program_name(function, arguments)


def test_a_name_is_the_same_for_other_values_of_the_same_kind():
    assert name(SLOW, FAST, RATE) == name(FAST, SLOW, RATE)
    assert name(SLOW, FAST, RATE) is not None


def test_a_name_follows_shapes_types_static_values_and_functions():
    names = [
        name(SLOW, FAST, RATE),
        name(SLOW, FAST, jnp.asarray(0.5)),
        name(SLOW, FAST, 0.25),
        name(SLOW, FAST, jnp.asarray([0.5])),
        name(SLOW, FAST, jnp.asarray(1)),
        name(SLOW, FAST, 1),
        name(SLOW, FAST, True),
        name(SLOW, FAST, RATE, function=infinity.over_cells),
        name(SLOW, FAST, jax.nn.relu),
        name(SLOW, FAST, jax.nn.silu),
    ]
    assert None not in names and len(set(names)) == len(names)


def test_a_name_follows_precision():
    before = name(SLOW, FAST, RATE)
    with jax.default_matmul_precision("highest"):
        assert name(SLOW, FAST, RATE) != before


@dataclasses.dataclass(frozen=True)
class OwnConfig:
    """A user's class."""

    size: int = 1


@pytest.mark.parametrize(
    "foreign",
    [OwnConfig(), lambda x: x, OwnConfig, object()],
    ids=["instance", "lambda", "class", "object"],
)
def test_what_comes_from_elsewhere_has_no_name(foreign):
    assert name(SLOW, FAST, foreign) is None


def test_a_function_replaced_while_running_changes_the_name(monkeypatch):
    before = name(SLOW, FAST, RATE)
    monkeypatch.setattr(infinity, "size_of", infinity.affine_over_cells)
    assert name(SLOW, FAST, RATE) not in (None, before)


@pytest.mark.parametrize("part", ["constants", "names", "instructions", "nested"])
def test_a_function_of_the_same_name_with_other_code_changes_the_name(monkeypatch, part):
    # As when a file is edited and its module loaded again, or a notebook changes a function.
    inner = getattr(infinity.size_of, "__wrapped__", infinity.size_of)
    code = inner.__code__
    nested = code.replace(co_name="inner", co_consts=(*code.co_consts, 1.5))
    changed = {
        "constants": code.replace(co_consts=(*code.co_consts, 1.5)),
        "names": code.replace(co_names=(*code.co_names, "another")),
        "instructions": code.replace(co_code=code.co_code[:2] + code.co_code),
        "nested": code.replace(co_consts=(*code.co_consts, nested)),
    }
    before = name(SLOW, FAST, RATE)
    monkeypatch.setattr(inner, "__code__", changed[part])
    assert name(SLOW, FAST, RATE) not in (None, before)
    monkeypatch.undo()
    assert name(SLOW, FAST, RATE) == before


def test_a_constant_or_method_replaced_while_running_changes_the_name(monkeypatch):
    before = name(SLOW, FAST, RATE)
    monkeypatch.setattr(losses, "CONSTANT", 3, raising=False)
    changed = name(SLOW, FAST, RATE)
    monkeypatch.setattr(infinity.MaxMin, "constant", infinity.MaxMin.rounding)
    assert len({None, before, changed, name(SLOW, FAST, RATE)}) == 4


def test_what_a_partial_or_a_default_holds_changes_the_name(monkeypatch):
    names = []
    for held in (
        functools.partial(infinity.size_of, 1),
        functools.partial(infinity.size_of, 2),
        functools.partial(infinity.size_of, x=2),
        FixedDepth(1),
        FixedDepth(2),
    ):
        monkeypatch.setattr(losses, "HELD", held, raising=False)
        names.append(name(SLOW, FAST, RATE))
    assert None not in names and len(set(names)) == len(names)


def test_another_version_of_the_search_library_changes_the_name(monkeypatch):
    before, real = name(SLOW, FAST, RATE), identity.metadata.version
    monkeypatch.setattr(
        identity.metadata, "version", lambda library: real(library) + "1" * (library == "mctx")
    )
    assert name(SLOW, FAST, RATE) not in (None, before)


def test_a_users_function_in_place_of_the_packages_takes_the_name_away(monkeypatch):
    monkeypatch.setattr(infinity, "size_of", lambda x: x)
    assert name(SLOW, FAST, RATE) is None
    monkeypatch.undo()
    monkeypatch.setattr(infinity.MaxMin, "constant", lambda self, injected: 2.0)
    assert name(SLOW, FAST, RATE) is None


def test_no_code_of_a_program_is_left_out_of_its_name():
    # What a part of the package takes from elsewhere in it has to be a part too. `envs` and
    # `settings` run outside of programs.
    named, outside = set(identity._PARTS), {"envs", "programs", "settings"}
    for name, module in list(sys.modules.items()):
        if name.startswith("loopwm.") and name.split(".")[1] in named:
            for value in vars(module).values():
                origin = str(getattr(value, "__module__", "")).split(".")
                if origin[0] == "loopwm":
                    assert origin[1] in named | outside, (name, value)
