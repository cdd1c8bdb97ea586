"""What a session does before its run: the learner is compiled beside the building."""

import threading

import jax
import numpy as np
import pytest

from loopwm import session
from loopwm.envs import Spaces
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
    begun = Session("CartPole-v1", config)
    assert begun._compiling is not None
    begun.run(RunFolder.create(tmp_path / "run", begun.config), resume=False, quiet=True)
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


def test_no_network_is_made_from_the_learners_key(monkeypatch):
    keys = {}

    def keeping(name, real):
        def kept(*arguments, key, **others):
            keys[name] = key
            return real(*arguments, key=key, **others)

        monkeypatch.setattr(session, name, kept)

    keeping("build_networks", session.build_networks)
    keeping("init_learner", session.init_learner)
    config = resolve_config("CartPole-v1", config="debug", steps=48)
    built = session.build_run_networks(config, Spaces.of_source("CartPole-v1"))
    session._first_learner(config, built)
    made = np.asarray(jax.random.key_data(jax.random.split(keys["build_networks"], 3)))
    assert not (made == np.asarray(jax.random.key_data(keys["init_learner"]))).all(axis=-1).any()
