"""Suites: tasks, sizes and a protocol under one name."""

import dataclasses

from loopwm.errors import UsageError
from loopwm.evaluation.compare.families import FAMILIES
from loopwm.evaluation.compare.protocol import (
    ControlProtocol,
    DynamicsProtocol,
    Protocol,
    Search,
)
from loopwm.evaluation.compare.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Suite:
    """What is compared, before anything is chosen otherwise."""

    name: str
    words: str
    """What it measures, as reports say it."""
    tasks: tuple[str, ...]
    """Names of its tasks."""
    sizes: tuple[int, ...]
    """Parameters of the world models."""
    seeds: int
    """Seeds 0 … seeds − 1."""
    protocol: Protocol
    """What is the same for every family."""
    families: tuple[str, ...] = tuple(FAMILIES)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "dynamics",
            "open-loop error on logged data",
            tasks=tuple(TASKS),
            sizes=(5_000, 20_000, 80_000),
            seeds=5,
            protocol=DynamicsProtocol(),
        ),
        Suite(
            "control",
            "return with the planner after a fixed number of env steps",
            tasks=("CartPole-v1", "Pendulum-v1"),
            sizes=(5_000, 20_000, 80_000),
            seeds=5,
            protocol=ControlProtocol(),
        ),
        Suite(
            "debug",
            "open-loop error on a little logged data",
            tasks=("Pendulum-v1",),
            sizes=(4_000,),
            seeds=2,
            protocol=DynamicsProtocol(
                env_steps=2_000,
                updates=150,
                batch_size=32,
                horizon=5,
                sequences=64,
                recurrences=(),
                search=Search(rates=(3e-3,), shapes=1),
            ),
        ),
    )
}


def find_suite(name: str, *, quick: bool = False) -> Suite:
    """The suite of that name.

    Args:
        name: its name.
        quick: a tenth of the data and updates (control: a fifth of the env steps), and a search of
            one shape and two rates.

    Raises:
        UsageError: there is no such suite.
    """
    if name not in SUITES:
        raise UsageError(f"There is no suite '{name}'; give one of {', '.join(SUITES)}.")
    suite = SUITES[name]
    return dataclasses.replace(suite, protocol=_quick(suite.protocol)) if quick else suite


def _quick(protocol: Protocol) -> Protocol:
    rates = protocol.search.rates
    middle = (len(rates) - 1) // 2
    search = dataclasses.replace(protocol.search, rates=rates[middle : middle + 2], shapes=1)
    if isinstance(protocol, ControlProtocol):
        # A share of so few env steps would be over before learning begins.
        search = dataclasses.replace(search, share=1.0)
        return dataclasses.replace(
            protocol,
            env_steps=max(300, protocol.env_steps // 5),
            episodes=4,
            depths=protocol.depths[1:3],
            samples=(1.0,),
            search=search,
        )
    return dataclasses.replace(
        protocol,
        env_steps=max(1_000, protocol.env_steps // 10),
        updates=max(50, protocol.updates // 10),
        sequences=max(32, protocol.sequences // 4),
        search=search,
    )
