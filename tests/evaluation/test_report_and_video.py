"""The page about a run, and videos."""

import dataclasses
import re
import sys

import numpy as np
import pytest
import toy_envs
from known_depth import analyse
from known_dynamics import Cart, ExactCart, policy_agent
from scripted import Scripted

from loopwm.envs import Spaces
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation import record_episode, watch, write_report
from loopwm.run import resolve_config
from loopwm.training import RunFolder

SUMMARY = {
    "env": "CartPole-v1",
    "seed": 0,
    "env_steps": 100,
    "wall_seconds": 12.34,
    "compile_seconds": 5.0,
    "threshold": 475.0,
    "solved_at": None,
    "final_return_mean": 123.5,
    "params": {"total": 30, "world_model": 20, "core": 10},
    "certificate": {"level": "global", "rate": 0.9512, "norm": "P"},
}
GUARANTEES = ["The loop contracts at 0.9512 (level 'global').", "It <may> move apart."]
CONFIG = resolve_config("CartPole-v1", config="debug")


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", CONFIG)


def report(folder, config=CONFIG, depth=None, watched=None, **changes):
    write_report(folder, config, SUMMARY | changes, GUARANTEES, depth, watched)
    return folder.report_file.read_text(encoding="utf-8")


def test_the_report_shows_the_run(folder):
    for steps, mean in ((50, 20.0), (100, 123.5)):
        folder.append_eval({"env_steps": steps, "return_mean": mean})
    page = report(folder)
    assert "123.5" in page and "12.3" in page and "learner.discount=" in page
    assert page.count("<circle") == 2 and "threshold 475" in page
    assert "0.9512" in page and "It &lt;may&gt; move apart." in page


def test_the_report_needs_nothing_else(folder):
    page = report(folder)
    assert "No evaluation yet" in page
    assert not re.search(r"(src|href)\s*=", page) and "http" not in page.replace("doctype", "")


def test_the_section_about_depth(folder):
    assert "Depth" not in report(folder)
    said = report(folder, depth="The depth was not measured: it <jammed>.")
    assert "<h2>Depth" in said and "it &lt;jammed&gt;." in said
    shown = report(folder, depth=analyse())
    assert shown.count("<img") == 1 and "over-thinking" in shown
    assert not re.search(r'src="(?!data:)', shown)


def test_the_section_about_imagination(folder):
    assert "Imagination" not in report(folder)
    said = report(folder, watched="No episode was imagined: it <jammed>.")
    assert "<h2>Imagination" in said and "it &lt;jammed&gt;." in said
    watched = watch(policy_agent(ExactCart(), Cart), Cart)
    shown = report(folder, watched=(watched, Spaces.of_source(Cart).observation))
    assert shown.count("<img") == 1 and "open loop" in shown
    assert not re.search(r'src="(?!data:)', shown)


def test_the_report_without_threshold(folder):
    folder.append_eval({"env_steps": 50, "return_mean": -3.0})
    page = report(folder, threshold=None)
    assert "<circle" in page and "threshold 4" not in page


def test_names_are_escaped(folder):
    page = report(folder, dataclasses.replace(CONFIG, env="<script>x</script>"))
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_video_of_one_episode(tmp_path):
    path = record_episode(
        Scripted(np.asarray(1)), "CartPole-v1", tmp_path / "new" / "videos", seed=3
    )
    assert path.parent == tmp_path / "new" / "videos" and path.suffix == ".mp4"
    assert path.stat().st_size > 500
    again = record_episode(Scripted(np.asarray(1)), "CartPole-v1", path.parent, seed=4)
    assert again != path and path.exists()


@pytest.mark.parametrize("source", ["toy_envs:Corridor-v0", toy_envs.Corridor])
def test_an_environment_that_cannot_be_rendered(source, tmp_path, assert_helpful):
    with pytest.raises(UsageError, match="rendered") as raised:
        record_episode(Scripted(np.asarray(1)), source, tmp_path / "videos", seed=3)
    assert_helpful(raised)
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize("missing", ["moviepy", "pygame"])
def test_a_missing_package_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match="not installed") as raised:
        record_episode(Scripted(np.asarray(1)), "CartPole-v1", tmp_path, seed=3)
    assert "loopwm[video]" in str(raised.value)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_a_video_folder_that_cannot_be_written(tmp_path, assert_helpful):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--video") as raised:
        record_episode(Scripted(np.asarray(1)), "CartPole-v1", tmp_path / "file" / "v", seed=3)
    assert_helpful(raised)


def test_a_fault_while_recording_is_a_failure(tmp_path):
    class Broken(toy_envs.Corridor):
        metadata = {"render_modes": ["rgb_array"]}
        render_mode = "rgb_array"

        def step(self, action):
            raise ValueError("jammed")

        def render(self):
            return np.zeros((16, 16, 3), np.uint8)

    with pytest.raises(RunFailure, match="jammed"):
        record_episode(Scripted(np.asarray(1)), Broken, tmp_path, seed=3)
