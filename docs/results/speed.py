"""Decisions of an agent: milliseconds, FLOPs, and their share of the machine's matrix products.

    python docs/results/speed.py [AGENT ...] [--batch 1 4 16] [--repeats 60]

AGENT is a run's folder, or one that comes with the package (pretrained:cartpole and
pretrained:pendulum unless given). FLOPs are XLA's for the whole decision with its loops written
out; a multiplication and an addition are one each, exp and tanh none. The rate they are held
against is that of a product of two 1024 × 1024 matrices in float32, measured in turns with the
decisions. CPU seconds of one core: XLA_FLAGS="--xla_cpu_multi_thread_eigen=false
intra_op_parallelism_threads=1".
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import loopwm
from loopwm.agents import PlanningAgent, planning
from loopwm.envs import Spaces, VectorStepper, make_vector
from loopwm.evaluation.flops import unrolled
from loopwm.training.agent_file import read_agent

SIDE = 1024


def first_observations(env: str, batch: int) -> np.ndarray:
    """First observations of as many environments, as the agents of an evaluation see them."""
    stepper = VectorStepper(make_vector(env, batch), Spaces.of_source(env))
    stepper.reset(seed=0)
    first = stepper.raw
    stepper.close()
    return first


def flops_of_decision(agent: PlanningAgent, observation: np.ndarray) -> float:
    """FLOPs of one compiled call, for all environments of the batch."""
    vectors, _ = agent.spaces.encode_observation(observation)
    state = agent.initial_state(batch=len(vectors))
    parts = (agent.networks, agent.normalizer, agent.planner, agent.rule, agent.discount)
    flat, leaves = unrolled(
        planning._plan_batch.__wrapped__,
        parts,
        jnp.asarray(vectors),
        state.key,
        jax.tree.map(jnp.asarray, state.memory),
        jnp.asarray(False),
    )
    counted = jax.jit(flat).lower(*leaves).compile().cost_analysis()
    assert counted is not None
    return float(counted["flops"])


def timed(agent: PlanningAgent, observation: np.ndarray, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of a decision, and of a product of two large matrices."""
    square = jax.random.normal(jax.random.key(0), (SIDE, SIDE))
    product = jax.jit(jnp.dot)
    state = agent.initial_state(seed=0, batch=len(observation))
    spent, peak = [], []
    for _ in range(repeats + 3):  # the first three compile and warm up
        began = time.process_time()
        action, state = agent.act(observation, state)
        np.asarray(action)
        spent.append(time.process_time() - began)
        began = time.process_time()
        product(square, square).block_until_ready()
        peak.append(time.process_time() - began)
    return float(np.median(spent[3:])), float(np.median(peak[3:]))


def main() -> None:
    """Prints a row an agent and batch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("agents", nargs="*", default=["pretrained:cartpole", "pretrained:pendulum"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=60)
    words = parser.parse_args()
    print("| agent | batch | ms/decision | MFLOP/decision | GFLOP/s | product, GFLOP/s | share |")
    print("|---|---|---|---|---|---|---|")
    for name in words.agents:
        agent, env = loopwm.load(name), read_agent(name).config.source()
        assert isinstance(agent, PlanningAgent)
        for batch in words.batch:
            observation = first_observations(env, batch)
            work = flops_of_decision(agent, observation)
            seconds, product = timed(agent, observation, words.repeats)
            peak = 2.0 * SIDE**3 / product
            print(
                f"| {name} | {batch} | {1e3 * seconds / batch:.2f} | {1e-6 * work / batch:.1f} "
                f"| {1e-9 * work / seconds:.1f} | {1e-9 * peak:.1f} "
                f"| {work / seconds / peak:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
