"""What is seen of a run while it goes on."""

from loopwm.run import resolve_config
from loopwm.training import RunFolder, RunTelemetry


def test_there_is_a_file_of_events_though_nothing_was_measured(tmp_path):
    folder = RunFolder.create(tmp_path / "run", resolve_config("CartPole-v1", config="debug"))
    telemetry = RunTelemetry(folder, 1, 0, quiet=True)
    telemetry.close()
    assert len(list(folder.path.glob("events.out.tfevents.*"))) == 1
