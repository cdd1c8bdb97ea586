"""Bad input: one sentence that says what to do, the right exit status, nothing half-written."""

import pathlib
import shutil

import equinox as eqx
import jax.numpy as jnp
import pytest

from loopwm.cli.main import main
from loopwm.training import RunFolder, checkpoint, trainer

OUT = pathlib.Path("out") / "run"


@pytest.fixture
def sentence(capsys, assert_helpful):
    """The one line that a command leaves on stderr; checks its form."""

    def read(*, alone=True):
        shown = capsys.readouterr()
        lines = shown.err.splitlines()
        assert shown.out == "" and "Traceback" not in shown.err
        assert lines[-1].startswith("loopwm: ")
        assert not alone or len(lines) == 1, shown.err
        assert lines[-1].endswith((".", "?"))
        return lines[-1]

    return read


def train(env="CartPole-v1", *arguments):
    return main(["train", env, "--config", "debug", "--out", str(OUT), *arguments])


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("CartPol-v1", "loopwm envs"),
        ("CartPole-v9", "loopwm envs"),
        ("missing_module:Env-v0", "missing_module"),
        ("toy_envs:Unknown-v0", "Unknown-v0"),
        ("broken_envs:Extra-v0", 'pip install "loopwm[mujoco]"'),
        ("broken_envs:Constructor-v0", "licence server"),
        ("broken_envs:NotAnEnv-v0", "NotAnEnv-v0"),
        ("broken_envs:DictObservation-v0", "at ['a']"),
        ("broken_envs:TupleObservation-v0", "at [0]"),
        ("broken_envs:EmptyObservation-v0", "is empty"),
        ("broken_envs:DictAction-v0", "TransformAction(env, f, space)"),
        ("broken_envs:LargeAction-v0", "1000000 categories"),
        ("broken_envs:UnboundedAction-v0", "action space Box"),
    ],
)
def test_environments_that_cannot_be_learned_in(in_tmp, sentence, env, said):
    assert train(env) == 2
    assert said in sentence()
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "learner.batchsize=4"), "learner.batch_size"),
        (("--set", "learner.batch_size=four"), "an integer"),
        (("--set", "learner.batch_size"), "key=value"),
        (("--set", "collection.replay_capacity=1000000000000000"), "collection.replay_capacity"),
        (("--set", "collection.replay_capacity=2"), "collection.replay_capacity"),
        (("--set", "heads.entropy=1.5"), "heads.entropy is 1.5"),
        (("--set", "learner.devices=3"), "learner.batch_size is 8, which 3 devices cannot share"),
        (("--set", "learner.devices=8"), "learner.devices is 8, but JAX has 1 device"),
        (("--set", "model.name=grid"), "A grid model"),
        (("--set", "model.name=tokens", "--set", "model.core.heads=3"), "3 heads"),
        (("--set", "collection.vector=threads"), "collection.vector"),
        (("--set", "collection.worker_timeout=0"), "collection.worker_timeout"),
        (("--set", "collection.longest_episode=0"), "collection.longest_episode"),
        (("--seed", "-1"), "seed is -1"),
        (("--steps", "0"), "steps is 0"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, tuple) else None,
)
def test_settings_that_make_no_sense(in_tmp, sentence, arguments, said):
    assert train("CartPole-v1", *arguments) == 2
    assert said in sentence()
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize(
    ("config", "text", "said"),
    [
        ("debugg", None, "debug"),
        ("nowhere.yaml", None, "nowhere.yaml"),
        ("mine.yaml", "learner: {batch_size: four}", "learner.batch_size"),
        ("mine.yaml", "learner: 5", "learner is 5"),
        ("mine.yaml", "lerner: {}", "did you mean 'learner'"),
        ("mine.yaml", "- 5", "mapping"),
        ("mine.yaml", "{", "YAML"),
    ],
)
def test_configurations_that_make_no_sense(in_tmp, sentence, config, text, said):
    if text is not None:
        (in_tmp / config).write_text(text)
    assert main(["train", "CartPole-v1", "--config", config, "--out", str(OUT)]) == 2
    assert said in sentence()
    assert not OUT.exists() and not OUT.parent.exists()


def test_no_environment(in_tmp, sentence):
    assert main(["train", "--config", "debug"]) == 2
    assert "loopwm train CartPole-v1" in sentence()


def test_an_out_that_cannot_be_written(in_tmp, sentence):
    (in_tmp / "out").write_text("a file")
    assert train() == 2
    assert "--out" in sentence()
    assert (in_tmp / "out").read_text() == "a file"


def test_an_out_that_is_used(in_tmp, cartpole_copy, sentence):
    before = sorted(p for p in cartpole_copy.rglob("*"))
    assert main(["train", "CartPole-v1", "--config", "debug", "--out", str(cartpole_copy)]) == 2
    assert f"--resume {cartpole_copy}" in sentence()
    assert sorted(p for p in cartpole_copy.rglob("*")) == before


@pytest.mark.parametrize("fault", ["Reset", "OldReset"])
def test_an_environment_that_fails_at_once(cartpole_run, in_tmp, sentence, fault):
    assert train(f"broken_envs:{fault}-v0") == 1
    line = sentence(alone=False)
    assert "reset" in line and "no checkpoint was written yet" in line


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("Step", "raised ValueError in step 80: the arm hit the table"),
        ("NaN", "NaN or infinity in an observation in step 80"),
        ("Shape", "observation of shape (5,) in step 80"),
        ("InfiniteReward", "reward inf in step 80"),
        ("HugeReward", "reward 1e+300 in step 80"),
        ("LargeReward", "TransformReward(env, lambda r: 1e-08 * r)"),
        ("Leaves", "which lies outside Box"),
        ("HugeObservation", "observation in step 80"),
        ("Text", "step 80"),
    ],
)
def test_an_environment_that_fails_later(cartpole_run, in_tmp, sentence, fault, said):
    assert train(f"broken_envs:{fault}-v0") == 1
    line = sentence(alone=False)
    assert said in line
    good = OUT / "checkpoints" / "64"
    assert f"the last good checkpoint is {good}" in line
    assert checkpoint.steps(RunFolder.open(OUT)) == [64]
    if fault == "Step":  # the sentence is about the run; one of them shows that it loads
        assert main(["evaluate", str(OUT), "--episodes", "2", "--json"]) == 0


def test_an_environment_that_fails_in_an_evaluation(cartpole_run, in_tmp, sentence, monkeypatch):
    import broken_envs

    made, real = [], broken_envs.Faulty.step

    def step(self, action):
        if self not in made:
            made.append(self)
        if len(made) > 3:  # one learned in, two of the evaluation at 48; these are of that at 96
            raise ValueError("out of licences")
        return real(self, action)

    monkeypatch.setattr(broken_envs.Faulty, "step", step)
    assert train("broken_envs:NoFault-v0") == 1
    line = sentence(alone=False)
    assert "out of licences" in line and str(OUT / "checkpoints" / "64") in line


class Learner:
    """The learner's update, with something in its results made NaN from some call on."""

    def __init__(self, change, begin):
        self.change, self.begin, self.calls = change, begin, 0
        self.real = trainer.update

    def __call__(self, *arguments):
        self.calls += 1
        state, metrics = self.real(*arguments)
        return self.change(state, metrics) if self.calls >= self.begin else (state, metrics)


def loss_is_nan(state, metrics):
    nan = jnp.asarray(jnp.nan)
    terms = eqx.tree_at(lambda t: t.reward, metrics.terms, nan)
    return state, metrics._replace(loss=nan, terms=terms)


def parameters_are_nan(state, metrics):
    nan = jnp.full_like(state.networks.world_model.decoder.readout.bias, jnp.nan)
    where = lambda s: s.networks.world_model.decoder.readout.bias  # noqa: E731
    return eqx.tree_at(where, state, nan), metrics


@pytest.mark.parametrize(
    ("begin", "left"), [(1, "no checkpoint was written yet"), (6, "checkpoints/64")]
)
def test_a_loss_that_is_no_number(cartpole_run, in_tmp, sentence, monkeypatch, begin, left):
    monkeypatch.setattr(trainer, "update", Learner(loss_is_nan, begin))
    assert train() == 1
    line = sentence(alone=False)
    assert "The reward loss became nan" in line and "learner.learning_rate" in line and left in line


def test_parameters_that_are_no_numbers_are_never_saved(
    cartpole_run, in_tmp, sentence, monkeypatch
):
    """The decoder takes no part in acting, so only the checkpoint can notice."""
    monkeypatch.setattr(trainer, "update", Learner(parameters_are_nan, 6))
    assert train() == 1
    line = sentence(alone=False)
    assert "decoder" in line and str(OUT / "checkpoints" / "64") in line
    assert checkpoint.steps(RunFolder.open(OUT)) == [64]
    assert main(["evaluate", str(OUT), "--episodes", "2", "--json"]) == 0


def test_a_disk_that_is_full(cartpole_run, in_tmp, sentence, monkeypatch):
    real, calls = checkpoint._checkpointer, []

    def checkpointer():
        calls.append(None)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real()

    monkeypatch.setattr(checkpoint, "_checkpointer", checkpointer)
    assert train() == 1
    line = sentence(alone=False)
    assert "No space left on device" in line and str(OUT / "checkpoints" / "64") in line


COMMANDS = {
    "evaluate": ["evaluate", "run"],
    "resume": ["train", "--resume", "run"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "damage", ["missing", "a file", "empty", "foreign", "no config", "bad config", "no checkpoint"]
)
def test_folders_that_hold_no_run(in_tmp, cartpole_run, sentence, command, damage):
    run = in_tmp / "run"
    if damage == "a file":
        run.write_text("")
    elif damage in ("empty", "foreign"):
        run.mkdir()
        if damage == "foreign":
            (run / "config.yaml").write_text("hydra: {job: train}\n")
    elif damage != "missing":
        shutil.copytree(cartpole_run.path, run)
        if damage == "no config":
            (run / "config.yaml").unlink()
        elif damage == "bad config":
            (run / "config.yaml").write_text("steps: many\n")
        else:
            shutil.rmtree(run / "checkpoints")
    before = sorted(in_tmp.rglob("*"))
    assert main(COMMANDS[command]) == 2
    assert "run" in sentence()
    assert sorted(in_tmp.rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_checkpoint(in_tmp, cartpole_run, sentence, command):
    run = in_tmp / "run"
    shutil.copytree(cartpole_run.path, run)
    for file in (run / "checkpoints" / "96").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    assert main(COMMANDS[command]) == 2
    line = sentence()
    assert f"{pathlib.Path('run', 'checkpoints', '96')} cannot be read" in line
    # What it advises helps.
    shutil.rmtree(run / "checkpoints" / "96")
    assert main([*COMMANDS["evaluate"], "--episodes", "2", "--json"]) == 0


def test_a_damaged_replay(in_tmp, cartpole_run, sentence):
    run = in_tmp / "run"
    shutil.copytree(cartpole_run.path, run)
    shutil.rmtree(run / "replay" / "96")
    assert main([*COMMANDS["resume"], "--steps", "100"]) == 2
    assert "cannot be read" in sentence(alone=False)
    assert RunFolder.open(run).read_config().steps == 96
