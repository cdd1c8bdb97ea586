"""What a session does before its run: the learner is compiled beside the building."""

import threading

import pytest

from loopwm.models import networks
from loopwm.programs import keep_in, stored
from loopwm.run import resolve_config
from loopwm.session import Session
from loopwm.training import RunFolder, learner

NAME = "learner's program"


@pytest.fixture
def compiled_in(tmp_path, monkeypatch):
    """Threads in which the learner's program was compiled, nothing having been kept before."""
    monkeypatch.setattr(stored, "_folder", [])
    for program in (learner._updates, networks._built):
        monkeypatch.setattr(program, "_programs", {})
    keep_in(tmp_path / "programs")
    threads, compile_it = [], stored.StoredProgram._compile

    def watched(self, *arguments):
        if self is learner._updates:
            threads.append(threading.current_thread().name)
        return compile_it(self, *arguments)

    monkeypatch.setattr(stored.StoredProgram, "_compile", watched)
    return threads


def test_the_learner_is_compiled_once_beside_the_building(compiled_in, tmp_path):
    config = resolve_config("CartPole-v1", config="debug", steps=48)
    session = Session("CartPole-v1", config)
    assert session._compiling is not None
    session.run(RunFolder.create(tmp_path / "run", session.config), resume=False, quiet=True)
    # The run found that very program, with the arrays in the places of the shapes.
    assert compiled_in == [NAME]
    assert NAME not in {thread.name for thread in threading.enumerate()}
    # Once the building is kept, nothing is begun.
    assert Session("CartPole-v1", config)._compiling is None


def test_a_run_that_will_not_learn_compiles_nothing_ahead(compiled_in):
    config = resolve_config("CartPole-v1", config="debug", steps=32)
    assert config.steps <= config.collection.random_steps
    assert Session("CartPole-v1", config)._compiling is None
    assert compiled_in == []
