"""Faults of an environment that is recorded."""

import numpy as np
import pytest
import toy_envs
from scripted import Scripted

from loopwm.errors import RunFailure
from loopwm.evaluation import record_episode


def jams(env):
    raise ValueError("no screen\nhere.")


@pytest.mark.parametrize(
    ("render", "said"),
    [
        (jams, "raised ValueError in render: no screen here; "),
        (lambda env: None, "returned NoneType in render"),
        (lambda env: [np.zeros((16, 16, 3), np.uint8)], "returned list in render"),
        (lambda env: np.zeros((16, 16), np.uint8), r"an array of shape \(16, 16\) in render"),
    ],
    ids=["raises", "nothing", "list", "grey"],
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
