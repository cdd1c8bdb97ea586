"""The depth of a run's model: in its report, and again from Python."""

from loopwm.evaluation import DepthConfig, analyse_depth, depth_section


def test_the_report_of_a_run_has_the_section_that_python_gives(cartpole_run):
    page = (cartpole_run.path / "report.html").read_text(encoding="utf-8")
    assert cartpole_run.traced["_traced"] == 1  # every depth, one program
    config = DepthConfig(transitions=64, envs=2)
    analysis = analyse_depth(cartpole_run.agent, "CartPole-v1", config=config)
    assert analysis.depth == analysis.trained == 2
    assert analysis.certified is not None and analysis.certified.met.all()
    assert depth_section(analysis) in page
