"""Measures the bars of docs/results/stability.md. Needs `pip install -e ".[bench]"`.

    python docs/results/stability.py cost        # contractive and free cores on CartPole, Pendulum
    python docs/results/stability.py acrobot     # one-step error, contractive and free
    python docs/results/stability.py violations  # random and adversarial pairs; run `cost` first
    python docs/results/stability.py rollouts    # imagined steps in the ball; run `cost` first
    python docs/results/stability.py overhead    # learner step with and without capping
    python docs/results/stability.py seconds     # seconds of one certify

The tasks on grids are in docs/results/grids.py, the published parametrisation in
docs/results/published.py, attention in docs/results/attention.py. Every command prints Markdown.
Raw results stay in runs/stability.
"""

import argparse
import dataclasses
import functools
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np
from foundation import SEEDS, environment, in_pairs, on_core, read

ROOT = pathlib.Path("runs/stability")
STEPS = {"CartPole-v1": 3000, "Pendulum-v1": 2000}
MODES = ("contractive", "free")


def trained(env: str, mode: str, seed: int, core: int) -> pathlib.Path:
    """Trains one run with the command line, pinned to a core."""
    out = ROOT / f"{env}-{mode}-{seed}"
    if not (out / "report.html").exists():
        shutil.rmtree(out, ignore_errors=True)
        words = [sys.executable, "-m", "loopwm.cli.main", "train", env, "--seed", str(seed)]
        words += ["--steps", str(STEPS[env]), "--out", str(out)]
        words += ["--set", f"model.core.mode={mode}"]
        subprocess.run(
            on_core(core, words), env=environment(), check=True, stderr=subprocess.DEVNULL
        )
    return out


def cost() -> None:
    """What the guarantee costs in env steps: contractive against free, same number of weights."""
    jobs = [(env, mode, seed) for seed in SEEDS for env in STEPS for mode in MODES]
    paths = dict(zip(jobs, in_pairs(jobs, lambda job, core: trained(*job, core)), strict=True))
    print("| env | core | solved_at, seeds 0-4 | median | core parameters |\n|---|---|---|---|---|")
    for env in STEPS:
        medians = {}
        for mode in MODES:
            summaries = [read(paths[env, mode, seed])[0] for seed in SEEDS]
            solved = [summary["solved_at"] for summary in summaries]
            medians[mode] = statistics.median(float(s or "inf") for s in solved)
            print(
                f"| {env} | {mode} | {', '.join(map(str, solved))} | {medians[mode]:g} | "
                f"{summaries[0]['params']['core']} |"
            )
        print(f"| {env} | ratio | | {medians['contractive'] / medians['free']:.2f} | |")


def acrobot_data(seed: int, count: int):
    """Random transitions of Acrobot-v1 from uniform states: observation, one-hot action, next."""
    import gymnasium as gym

    env = gym.make("Acrobot-v1")
    observations, actions, following = [], [], []
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    for _ in range(count):
        action = int(rng.integers(3))
        after, _, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(np.eye(3, dtype=np.float32)[action])
        following.append(after)
        observation = env.reset()[0] if terminated or truncated else after
    return tuple(np.stack(x).astype(np.float32) for x in (observations, actions, following))


def core_config(name: str):
    """The configuration of a core by its mode, or by the kind of its certified layers."""
    from loopwm.core import CoreConfig, LayerKind
    from loopwm.stability import Mode

    if name in list(LayerKind):
        return CoreConfig(layer=LayerKind(name))
    return CoreConfig(mode=Mode(name))


def acrobot_error(core: str, seed: int, updates: int = 4000) -> float:
    """NRMSE of the next observation on held-out transitions after supervised training."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    from loopwm.models import LoopedConfig, Sizes
    from loopwm.nn import resolve

    before, action, after = acrobot_data(0, 22_000)
    mean, spread = before[:20_000].mean(0), before[:20_000].std(0)
    before, after = (before - mean) / spread, (after - mean) / spread
    config = LoopedConfig(core=core_config(core))
    model = config.build(Sizes(6, 3), key=jax.random.key(seed))
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-3, updates))
    )

    def predicted(model, o, u):
        return model.decode(model.transition(model.encode(o), u).value)

    def loss(model, o, u, following):
        model = resolve(model)
        return jnp.mean((jax.vmap(functools.partial(predicted, model))(o, u) - following) ** 2)

    @eqx.filter_jit
    def step(model, state, o, u, following):
        gradient = eqx.filter_grad(loss)(model, o, u, following)
        change, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, change), state

    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    rng = np.random.default_rng(seed)
    for _ in range(updates):
        rows = rng.integers(0, 20_000, 256)
        model, state = step(model, state, before[rows], action[rows], after[rows])
    held = slice(20_000, 22_000)
    squared = eqx.filter_jit(loss)(model, before[held], action[held], after[held])
    change = np.mean((after[held] - before[held]) ** 2)
    return float(np.sqrt(squared / change))


def acrobot() -> None:
    """One-step error on Acrobot-v1 over that of predicting no change."""
    print("| core | error, seeds 0-4 | median | over free |\n|---|---|---|---|")
    free = 0.0
    for core in ("free", "convex_potential", "sll", "sandwich", "bounded"):
        errors = [acrobot_error(core, seed) for seed in SEEDS]
        median = statistics.median(errors)
        free = free or median
        shown = ", ".join(f"{error:.4f}" for error in errors)
        print(f"| {core} | {shown} | {median:.4f} | {median / free:.2f} |", flush=True)


def updates_of(run: pathlib.Path, count: int):
    """Inner updates of a run's core at imagined inputs, near and far, with float64 weights."""
    import jax
    import jax.numpy as jnp

    import loopwm

    model = loopwm.load(run).world_model
    action = model.core.prelude.linear.in_features - model.latent
    found = []
    for number in range(count):
        key_z, key_u = jax.random.split(jax.random.key(number))
        z = model.bound(3.0 ** (number % 5 - 2) * jax.random.normal(key_z, (model.latent,)))
        u = jax.random.uniform(key_u, (action,), minval=-1.0, maxval=1.0)
        update = model.core.bind(model.core.prelude(z, u))
        if hasattr(update, "gamma"):  # the float32 number that the loop computes with
            update = dataclasses.replace(update, gamma=float(np.float32(update.gamma)))
        with jax.enable_x64(True):
            found.append(jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), update))
    return found


def violations() -> None:
    """Largest ratio over the certified rate of the same input; above 1 is a violation."""
    import jax
    import jax.numpy as jnp

    from loopwm.stability import attack

    print("| core | random pairs | worst / rate | adversarial pairs | worst / rate | violations |")
    print("|---|---|---|---|---|---|")
    pairs, inputs, starts = 10_000, 10, 10
    for env in STEPS:
        for seed in SEEDS:
            random, hostile, broken = 0.0, 0.0, 0
            for number, update in enumerate(updates_of(ROOT / f"{env}-contractive-{seed}", inputs)):
                with jax.enable_x64(True):
                    width = len(update.retention)
                    rng = np.random.default_rng(number)
                    size = 10.0 ** rng.uniform(-2, 4, (2, pairs, 1))
                    x = jnp.asarray(size[0] * rng.normal(size=(pairs, width)))
                    y = x + jnp.asarray(size[1] * rng.normal(size=(pairs, width)))
                    ratios = _ratios(update, x, y) / float(update.rate())
                    found = attack(
                        update, update.norm, width, key=jax.random.key(number), starts=starts
                    )
                    ratios_found = np.asarray(found.ratios, np.float64) / float(update.rate())
                random = max(random, float(np.max(ratios)))
                hostile = max(hostile, float(np.max(ratios_found)))
                broken += int(np.sum(~(ratios <= 1.0)) + np.sum(~(ratios_found <= 1.0)))
            print(
                f"| {env}, seed {seed} | {pairs * inputs:,} | {random:.4f} | {starts * inputs} | "
                f"{hostile:.4f} | {broken} |",
                flush=True,
            )


@functools.cache
def _jitted_ratios():
    import equinox as eqx
    import jax

    @eqx.filter_jit
    def ratios(update, x, y):
        moved = jax.vmap(lambda a, b: update.norm(update(a) - update(b)))(x, y)
        return moved / jax.vmap(update.norm)(x - y)

    return ratios


def _ratios(update, x, y) -> np.ndarray:
    return np.asarray(_jitted_ratios()(update, x, y))


def rollouts() -> None:
    """Imagined steps under random and hostile actions, against the proven ball."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import loopwm
    from loopwm.stability import certify_transition

    candidates, ahead, steps, starts = 16, 8, 500, 20

    @eqx.filter_jit
    def imagine(model, z, keys, hostile):
        def norms(z, actions):
            def one(z, u):
                z = model.transition(z, u).value
                return z, jnp.linalg.norm(z)

            return jax.lax.scan(one, z, actions)[1]

        def step(z, key):
            shape = (candidates, ahead, model.core.prelude.linear.in_features - model.latent)
            drawn = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
            # Half of the sequences are at the corners, half of those hold one action throughout.
            drawn = drawn.at[::2].set(jnp.sign(drawn[::2]))
            drawn = drawn.at[::4].set(drawn[::4, :1])
            sizes = jax.vmap(norms, (None, 0))(z, drawn)
            best = jnp.argmax(sizes[:, -1])
            after = model.transition(z, drawn[jnp.where(hostile, best, 0), 0]).value
            return after, (jnp.max(sizes), jnp.linalg.norm(after))

        return jax.vmap(lambda z, keys: jax.lax.scan(step, z, keys)[1])(z, keys)

    print(
        "| model | actions | imagined steps | largest norm | largest norm reached after 10 steps | "
        "proven radius | outside |\n|---|---|---|---|---|---|---|"
    )
    for env in STEPS:
        for seed in SEEDS:
            model = loopwm.load(ROOT / f"{env}-contractive-{seed}").world_model
            radius = certify_transition(model).radius
            for hostile in (False, True):
                key = jax.random.key(seed)
                far = 10.0 * jax.random.normal(key, (starts, model.latent))
                keys = jax.vmap(lambda k: jax.random.split(k, steps))(jax.random.split(key, starts))
                found = imagine(model, jax.vmap(model.bound)(far), keys, jnp.asarray(hostile))
                all_sizes, path = (np.asarray(x, np.float64) for x in found)
                outside = int(np.sum(~(all_sizes <= radius)) + np.sum(~(path <= radius)))
                print(
                    f"| {env}, seed {seed} | {'hostile' if hostile else 'random'} | "
                    f"{starts * steps * (candidates * ahead + 1):,} | {all_sizes.max():.4f} | "
                    f"{path[:, 10:].max():.4f} | {radius:.4f} | {outside} |",
                    flush=True,
                )


def overhead() -> None:
    """Seconds of a learner call with capped weights over one with plain weights, interleaved."""
    import gymnasium as gym
    import jax

    from loopwm.envs import Spaces
    from loopwm.models import Normalizer, resolve_networks
    from loopwm.run import resolve_config
    from loopwm.session import build_run_networks
    from loopwm.training import SequenceBatch, init_learner, update

    print("| env | capped ms | plain ms | ratio of medians |\n|---|---|---|---|")
    for env in STEPS:
        config = resolve_config(env)
        spaces = Spaces.of(gym.make(env))
        learner = config.learner
        networks = build_run_networks(config, spaces)
        lead = (config.collection.updates_per_call, learner.batch_size)
        steps = learner.sequence
        rng = np.random.default_rng(0)
        batch = SequenceBatch(
            observation=rng.normal(size=(*lead, steps + 1, spaces.observation.size)).astype("f4"),
            action=rng.uniform(-1, 1, (*lead, steps, spaces.action.size)).astype("f4"),
            reward=rng.uniform(-1, 1, (*lead, steps)).astype("f4"),
            terminated=np.zeros((*lead, steps), bool),
            valid=np.ones((*lead, steps), bool),
        )
        normalizer = Normalizer.create(spaces.observation.size)
        states = {
            "capped": init_learner(networks, learner, key=jax.random.key(0)),
            "plain": init_learner(resolve_networks(networks), learner, key=jax.random.key(0)),
        }
        times: dict[str, list[float]] = {name: [] for name in states}
        for number in range(60):
            for name, state in states.items():
                began = time.perf_counter()
                states[name], metrics = update(state, batch, normalizer, 1.0, learner)
                metrics.loss.block_until_ready()
                if number >= 10:
                    times[name].append(1e3 * (time.perf_counter() - began))
        capped, plain = (statistics.median(times[name]) for name in ("capped", "plain"))
        print(f"| {env} | {capped:.1f} | {plain:.1f} | {capped / plain:.3f} |", flush=True)


def seconds() -> None:
    """Seconds of one `certify` and one `certify_transition` on the default model."""
    import jax

    import loopwm
    from loopwm.models import LoopedConfig, Sizes
    from loopwm.stability import certify_transition

    model = LoopedConfig().build(Sizes(4, 2), key=jax.random.key(0))
    for name, issue in (
        ("certify", lambda: loopwm.certify(model.core)),
        ("certify_transition", lambda: certify_transition(model)),
    ):
        times = []
        for _ in range(6):
            began = time.perf_counter()
            issue()
            times.append(time.perf_counter() - began)
        print(f"{name}: first {times[0]:.2f} s, then {statistics.median(times[1:]):.3f} s")


def main() -> None:
    """Runs the named measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = {f.__name__: f for f in (cost, acrobot, violations, rollouts, overhead, seconds)}
    parser.add_argument("what", choices=known)
    known[parser.parse_args().what]()


if __name__ == "__main__":
    main()
