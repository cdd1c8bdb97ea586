"""What a reader is told about depth, and shown."""

import base64
import io
import re

import known_depth
import numpy as np
import pytest
import studies
from known_depth import DEPTHS, FALLING, analyse
from matplotlib.image import imread

from loopwm.errors import UsageError
from loopwm.evaluation import depth_section, write_depth_figures
from loopwm.evaluation.depth_report import errors, halting


def pictures(section):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', section)
    return [imread(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_section_needs_nothing_else_and_is_always_the_same():
    section = depth_section(analyse(true_depth=DEPTHS, certificate=studies.CERTIFICATE))
    assert len(pictures(section)) == 2
    bare = re.sub(r'src="data:[^"]+"', "", section)
    assert not re.search(r"(src|href)\s*=", bare) and "http" not in bare
    assert "4 transitions &lt;made up&gt;" in section and "empirical" in section
    again = depth_section(analyse(true_depth=DEPTHS, certificate=studies.CERTIFICATE))
    assert again == section


def test_sentences_say_what_was_measured():
    text = " ".join(errors(analyse()))
    assert "3.75 before the first loop and 0.469 after 3; it is smallest, 0.469, after 3" in text
    assert "first 3 loop(s), 100% reduced" in text
    assert "Between 4 and 9 loops" in text and "100.0% above" in text and "over-thinking" in text
    calm = " ".join(errors(analyse(FALLING[:4])))
    assert "no over-thinking was seen" in calm


def test_halting_says_tolerance_norm_and_correlation():
    text = " ".join(halting(analyse(true_depth=DEPTHS, certificate=studies.CERTIFICATE)))
    assert "--depth residual:0.38" in text and "--depth certified:0.01" in text
    assert "P-norm" in text and "correlation of these loops with the true depth is 1.00" in text
    assert "from 2 to 9, 4.8 in the mean; the most common one, 2, is that of 1 of 4" in text
    bare = " ".join(halting(analyse()))
    assert "not certified to contract" in bare and "does not report" in bare


def test_an_undefined_correlation_has_its_reason():
    same = " ".join(halting(analyse(true_depth=[4, 4, 4, 4])))
    assert "true depths are all the same" in same and "nan" not in same
    lost = " ".join(halting(analyse(true_depth=DEPTHS, config={"residual_tolerance": 1e-9})))
    assert "loops are all the same" in lost and "stopped 0%" in lost


def test_what_is_not_finite_is_said():
    text = " ".join(errors(analyse([1.0, 0.5, 0.25, 0.5, np.inf])))
    assert "From 4 loop(s) on some predictions are not finite." in text
    assert "Beyond the trained depth nothing finite was measured." in text
    lost = analyse([1.0, np.nan], sizes=[np.nan, 1.0])
    assert "no curve" in " ".join(errors(lost)) and "none halts" in " ".join(halting(lost))
    assert pictures(depth_section(lost)) == []


def test_figures_as_files(tmp_path, assert_helpful):
    analysis = analyse(true_depth=DEPTHS)
    paths = write_depth_figures(analysis, tmp_path / "new")
    assert [path.name for path in paths] == ["depth_error.png", "depth_loops.png"]
    assert all(imread(path).std() > 0.01 for path in paths)
    again = write_depth_figures(analysis, tmp_path / "again")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert len(write_depth_figures(analyse(), tmp_path)) == 1
    with pytest.raises(UsageError, match="folder") as raised:
        write_depth_figures(analysis, paths[0] / "beneath")
    assert_helpful(raised)


def test_a_perfect_model_and_one_transition_can_be_drawn():
    section = depth_section(analyse([0.0], sizes=[1.0], true_depth=[3]))
    assert len(pictures(section)) == 2
    assert known_depth.transitions([1.0], [3]).true_depth[0] == 3
