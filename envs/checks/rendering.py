"""The check of render modes; in another process, since graphics libraries may end theirs."""

import contextlib
import functools
import multiprocessing
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection

from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from gymnasium.vector.utils import CloudpickleWrapper

from loopwm.envs.checks.finding import Finding, Level
from loopwm.envs.checks.interface import warned
from loopwm.envs.checks.subject import Subject, remade
from loopwm.envs.workers import whole_spec, without_script
from loopwm.errors import after_colon

PATIENCE = 120.0
"""Seconds that rendering in one mode may take."""


def check_rendering(subject: Subject) -> Iterator[Finding]:
    """Every render mode but `human`, which opens a window, gives what Gymnasium expects."""
    metadata = subject.env.metadata
    given = metadata.get("render_modes") if isinstance(metadata, Mapping) else None
    modes = [mode for mode in given or () if mode != "human"]
    spec = subject.env.spec
    if not modes or not remade(spec):
        why = "spec to make it from" if modes else "render mode for images or text"
        yield Finding("rendering", Level.OK, f"Not checked, since there is no {why}.")
        return
    for mode in modes:
        said = _elsewhere(spec, mode, subject.seed)
        for text in said:
            yield Finding(
                "rendering",
                Level.WARNING,
                f"Render mode {mode}: {text}; correct it if videos are wanted.",
            )
        if not said:
            yield Finding("rendering", Level.OK, f"Render mode {mode} works.")


def _elsewhere(spec: EnvSpec, mode: str, seed: int) -> list[str]:
    """What there is to say about a render mode, tried in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    make = functools.partial(whole_spec(spec).make, render_mode=mode, disable_env_checker=True)
    process = context.Process(
        target=_render, args=(CloudpickleWrapper(make), seed, there), daemon=True
    )
    try:
        with without_script():
            process.start()
        there.close()
        if not here.poll(PATIENCE):
            return [f"it gives no answer within {PATIENCE:g} seconds"]
        return here.recv()
    except EOFError:
        process.join(PATIENCE)
        return [f"the process that renders dies (exit status {process.exitcode})"]
    except Exception as error:
        return [f"it cannot be tried ({type(error).__name__}{after_colon(error)})"]
    finally:
        if process.pid is not None:
            process.kill()
            process.join()


def _render(make: CloudpickleWrapper, seed: int, pipe: Connection) -> None:
    """Renders a frame, and sends warnings and the error, if any."""
    said: list[str] = []
    try:
        env = make()  # what its packages warn of when they are imported is no concern of ours
        with warned() as said:
            try:
                env.reset(seed=seed)
                env_render_passive_checker(env)
            finally:
                with contextlib.suppress(Exception):
                    env.close()
    except (Exception, SystemExit) as error:
        said.append(f"it fails with {type(error).__name__}{after_colon(error)}")
    pipe.send(said)
