"""Faults of an environment that is recorded."""

import pathlib

import gymnasium as gym
import numpy as np
import pytest
import toy_envs
from scripted import Scripted

from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation import record_episode
from loopwm.evaluation.video import Framed


def jams(env):
    raise ValueError("no screen\nhere.")


class Blank(toy_envs.Counting):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    render_mode = "rgb_array"

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


STILL = Scripted(np.full(1, 0.5, np.float32))


@pytest.mark.parametrize(
    ("render", "said"),
    [
        (jams, "raised ValueError in render: no screen here; "),
        (lambda env: None, "returned NoneType in render"),
        (lambda env: [np.zeros((16, 16, 3), np.uint8)], "returned list in render"),
        (lambda env: np.zeros((16, 16), np.uint8), r"an array of shape \(16, 16\) in render"),
        (lambda env: np.zeros((16, 16, 3)), "numbers of float64 in render"),
        (lambda env: np.full((16, 16, 3), 256), "integers from 0 to 255"),
    ],
    ids=["raises", "nothing", "list", "grey", "floats", "large"],
)
def test_a_fault_of_render_is_a_failure(render, said, tmp_path, assert_helpful):
    class Drawn(toy_envs.Corridor):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
        render_mode = "rgb_array"

    Drawn.render = render
    # Of another run; it is not taken for the video.
    (tmp_path / "seed3-episode-9.mp4").write_bytes(b"")
    with pytest.raises(RunFailure, match=said) as raised:
        record_episode(Scripted(np.asarray(1)), Drawn, tmp_path, seed=3)
    assert_helpful(raised)


def test_frames_that_change_leave_no_half_of_a_video(tmp_path, assert_helpful):
    class Growing(Blank):
        def render(self):
            return np.zeros((16, 16 + 2 * min(self.moment, 1), 3), np.uint8)

    said = r"shapes \(16, 16, 3\) and \(16, 18, 3\)"
    with pytest.raises(RunFailure, match=said) as raised:
        record_episode(STILL, Growing, tmp_path, seed=1)
    assert_helpful(raised)
    assert list(tmp_path.glob("*.mp4")) == []


def test_grey_frames_are_frames():
    class Grey(Blank):
        def render(self):
            return np.full((16, 16, 1), 7, np.int64)

    frame = Framed(Grey(), "Grey").render()
    assert frame.dtype == np.uint8 and frame.shape == (16, 16, 3) and np.all(frame == 7)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError("MoviePy error: no codec."), RunFailure, "made a video .MoviePy error: no codec"),
        (OSError(28, "No space left on device"), UsageError, "No space left on device"),
        (None, RunFailure, "nothing was written"),
    ],
    ids=["encoder", "disk", "nothing"],
)
def test_a_video_that_cannot_be_written_is_a_sentence(
    error, kind, said, tmp_path, monkeypatch, assert_helpful
):
    def close(self):
        if error is not None:
            raise error

    monkeypatch.setattr(gym.wrappers.RecordVideo, "close", close)
    (tmp_path / "seed1-episode-0.mp4").write_bytes(b"an earlier one")
    with pytest.raises(kind, match=said) as raised:
        record_episode(STILL, Blank, tmp_path, seed=1)
    assert_helpful(raised)


def test_the_video_is_of_the_seed_that_was_asked_for(tmp_path, monkeypatch):
    def close(self):
        pathlib.Path(self.video_folder, f"{self._video_name}.mp4").write_bytes(b"video")

    monkeypatch.setattr(gym.wrappers.RecordVideo, "close", close)
    # Seed 10 begins with the same letters, and comes later.
    (tmp_path / "seed10-episode-0.mp4").write_bytes(b"of another seed")
    assert record_episode(STILL, Blank, tmp_path, seed=1) == tmp_path / "seed1-episode-0.mp4"
