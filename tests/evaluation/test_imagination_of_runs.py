"""What a run shows of its agent's imagination: in TensorBoard, and in its report."""

import numpy as np
import pytest

import loopwm
from loopwm import session
from loopwm.envs import Spaces
from loopwm.errors import RunFailure
from loopwm.evaluation import watch, watched_sections
from loopwm.training import RunFolder, RunTelemetry, checkpoint


def page_of(path):
    return (path / "report.html").read_text(encoding="utf-8")


def reward_scale(path):
    return checkpoint.load(RunFolder.open(path))[1]["counters"]["reward_scale"]


def test_the_report_of_a_run_has_both_sections(cartpole_run):
    page = page_of(cartpole_run.path)
    assert "<h2>Imagination beside reality</h2>" in page and "at env step 96" in page
    assert "<h2>What the planner weighed</h2>" in page and "2 iteration(s)" in page
    assert page.count("<img") == 3  # curves, candidates, and the depth
    assert cartpole_run.traced["_imagined"] == 1  # two evaluations, one program


def test_a_run_without_evaluations_is_played_for_its_report(cartpole_copy):
    agent = loopwm.resume(cartpole_copy, quiet=True)  # there is nothing left to train
    watched = watch(
        agent, "CartPole-v1", reward_scale=reward_scale(cartpole_copy), envs=2, env_steps=96
    )
    codec = Spaces.of_source("CartPole-v1").observation
    assert watched_sections(watched, codec) in page_of(cartpole_copy)


def test_a_failure_while_playing_is_said_in_the_report(cartpole_copy, monkeypatch):
    def fail(*_, **__):
        raise RunFailure("CartPole-v1 raised ValueError in step: jammed; correct it.")

    monkeypatch.setattr(session, "watch", fail)
    loopwm.resume(cartpole_copy, quiet=True)
    page = page_of(cartpole_copy)
    assert "No episode was imagined: CartPole-v1 raised ValueError in step: jammed" in page
    assert "What the planner weighed" not in page and "<h2>Depth" in page


@pytest.mark.slow
def test_frames_of_a_dictionary_reach_tensorboard(compile_cache, tmp_path):
    source, sent = "toy_envs:Marker-parts-v0", {}

    def keep(self, env_steps, values):
        sent[env_steps] = values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTelemetry, "images", keep)
        loopwm.train(source, config="debug", steps=50, out=tmp_path / "run", quiet=True)
    (step, values), *more = sent.items()
    assert not more and 48 <= step <= 50
    assert set(values) == {"imagination/curves", "imagination/frames", "planner/candidates"}
    assert all(value.dtype == np.uint8 and value.shape[2] == 3 for value in values.values())
    page = page_of(tmp_path / "run")
    assert "all 3 images and grids of the observation" in page
    assert "all 4 entries of the observation" in page
