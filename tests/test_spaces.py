"""Every kind of observation and of action, from the environment to an update and a plan.

What is compiled is the same for most kinds, so that only a few of them are run; the others are
traced, which checks every shape and annotation on the way.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import space_envs

import loopwm
from loopwm.envs import Spaces, VectorStepper, make, make_vector
from loopwm.evaluation import StudyConfig
from loopwm.models import Normalizer, Sizes, build_networks
from loopwm.planning import NetworksModel
from loopwm.run import resolve_config
from loopwm.study import study_run
from loopwm.training import Replay, RunFolder, checkpoint, init_learner
from loopwm.training.learner import update

PAIRS = [
    ("scalar", "multi_binary"),
    ("odd_picture", "scalar_box"),
    ("coloured_frames", "multi_discrete"),
    ("multi_discrete", "large"),
    ("tuple", "matrix"),
]
FITTING = [
    *((*pair, "looped") for pair in PAIRS),
    ("odd_picture", "multi_discrete", "rssm"),
    ("tuple", "matrix", "transformer"),
    ("multi_discrete", "multi_binary", "ensemble"),
    ("scalar", "large", "latent_mlp"),
]


def collected(source, spaces, config):
    """A replay with some random steps, and how the last observation looks."""
    replay = Replay(60, 2, spaces.observation.size, spaces.action.size, spaces.observation.dtype)
    stepper = VectorStepper(make_vector(source, 2), spaces)
    rng = np.random.default_rng(0)
    stepper.reset(seed=0)
    replay.begin(stepper.observation, np.ones(2, bool))
    for _ in range(20):
        action = spaces.action.decode(rng.uniform(-1, 1, (2, spaces.action.size)).astype("f4"))
        step = stepper.step(action)
        ended = (step.terminated, step.truncated)
        replay.add(
            spaces.action.encode(action), step.reward, *ended, step.next_observation, step.real
        )
        replay.begin(stepper.observation, step.begun)
    stepper.close()
    return replay.sample(1, config.learner.batch_size, config.learner.sequence, rng)


@pytest.mark.parametrize(("observation", "action", "model"), FITTING, ids=lambda x: x)
def test_every_space_fits_models_learner_and_planner(observation, action, model):
    source = f"space_envs:{observation}-{action}-v0"
    config = resolve_config(source, config="debug", overrides={"model": {"name": model}})
    spaces = Spaces.of_source(source)
    batch = collected(source, spaces, config)
    assert batch.observation.dtype == spaces.observation.dtype
    scaling, layout = spaces.observation.scaling(), spaces.action.layout
    sizes = Sizes(
        observation=spaces.observation.size,
        action=layout.size,
        shape=spaces.observation.shape,
        image=spaces.observation.image,
    )
    planner = config.planning.choose(layout).build(layout)

    def learn_and_plan(key):
        normalizer = Normalizer.create(sizes.observation, scaling.offset, scaling.width)
        networks = build_networks(config.model, config.heads, sizes, actions=layout, key=key)
        state = init_learner(networks, config.learner, key=key)
        state, metrics = update(state, batch, normalizer, 1.0, config.learner)
        model = NetworksModel(state.networks, None, 0.99, layout.size)
        z = networks.world_model.encode(normalizer(jnp.asarray(batch.observation[0, 0, 0])))
        plan = planner(model, z, planner.cold_start(), jnp.asarray(True), key=key)
        return metrics.loss, plan.value, plan.warm_start

    loss, value, _ = eqx.filter_eval_shape(learn_and_plan, jax.random.key(0))
    assert loss.shape == () and value.shape == (layout.size,)


def few_measurements():
    """A study as small as it gets."""
    counts = ("visited", "drawn", "attacked", "rollouts", "attack_starts", "lookahead")
    few = dict.fromkeys(counts, 1) | {"episode_steps": 3, "loops": 8, "attack_steps": 4}
    few |= {"horizon": 8, "exponent_steps": 8, "candidates": 2, "eigenvalues": 4}
    return StudyConfig(**few)


@pytest.mark.parametrize(
    ("observation", "action"),
    [("dict", "matrix"), pytest.param("frames", "large", marks=pytest.mark.slow)],
)
def test_a_run_learns_saves_loads_and_acts(observation, action, compile_cache, tmp_path):
    source = f"space_envs:{observation}-{action}-v0"
    path = tmp_path / "run"
    overrides = {"evaluation": {"every": 1000}}
    agent = loopwm.train(
        source, config="debug", steps=40, out=path, overrides=overrides, quiet=True
    )
    env, spaces = make(source), Spaces.of_source(source)
    held = checkpoint.load_replay(RunFolder.open(path))
    assert held["observation"].dtype == spaces.observation.dtype
    made = held["action"][~held["last"]]
    assert len(made) == 40 and np.all(made.sum(1) == len(spaces.action.layout.groups))
    # Exploration takes each category of each group at some time, the small ones at least.
    if action == "matrix":
        assert np.all(made.any(0))
    one, _ = env.reset(seed=5)
    taken, _ = agent.act(one)
    assert env.action_space.contains(taken)
    np.testing.assert_array_equal(loopwm.load(path).act(one)[0], taken)
    policy, _ = loopwm.load(path, planner="policy").act(one)
    assert np.shape(policy) == np.shape(space_envs.largest(env.action_space))
    if action == "matrix":
        study = study_run(path, config=few_measurements())
        assert np.all(np.isfinite(study.outer.largest_norm))
