"""The depth of a run's model: in its report, and again from Python."""

import loopwm
from loopwm import session
from loopwm.errors import RunFailure
from loopwm.evaluation import DepthConfig, analyse_depth, depth_section


def test_the_report_of_a_run_has_the_section_that_python_gives(cartpole_run):
    page = (cartpole_run.path / "report.html").read_text(encoding="utf-8")
    assert cartpole_run.traced["_traced"] == 1  # every depth, one program
    config = DepthConfig(transitions=64, envs=2)
    analysis = analyse_depth(cartpole_run.agent, "CartPole-v1", config=config)
    assert analysis.depth == analysis.trained == 2
    assert analysis.certified is not None and analysis.certified.met.all()
    assert depth_section(analysis) in page


def test_a_failure_while_playing_is_said_in_the_report(cartpole_copy, monkeypatch):
    def fail(*_, **__):
        raise RunFailure("CartPole-v1 raised ValueError in step: jammed; correct it.")

    monkeypatch.setattr(session, "analyse_depth", fail)
    loopwm.resume(cartpole_copy, quiet=True)
    page = (cartpole_copy / "report.html").read_text(encoding="utf-8")
    assert "The depth was not measured: CartPole-v1 raised ValueError in step: jammed" in page
    assert "Error of the predicted observation" not in page
