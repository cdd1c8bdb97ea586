"""All checks in their order; a further one is a function and a line here."""

from collections.abc import Callable, Iterable

import gymnasium as gym

from loopwm.envs.checks import behaviour, interface, rendering
from loopwm.envs.checks.finding import Finding, Level, Report
from loopwm.envs.checks.subject import Subject
from loopwm.envs.make import EnvSource, missing_spaces
from loopwm.errors import RunFailure, UsageError, after_colon

CHECKS: tuple[Callable[[Subject], Iterable[Finding]], ...] = (
    interface.check_spaces,
    behaviour.check_steps,
    behaviour.check_observations,
    behaviour.check_rewards,
    behaviour.check_seeding,
    behaviour.check_episode_end,
    behaviour.check_time_limit,
    behaviour.check_termination,
    interface.check_gymnasium,
    rendering.check_rendering,
    behaviour.check_cost,
    behaviour.check_closing,
)


def check_env(env: EnvSource | gym.Env, *, steps: int = 1_000, seed: int = 0) -> Report:
    """Checks an environment; the same as the command `loopwm check-env`.

    Args:
        env: Gymnasium id, `module:Id` included, a function that makes an environment, or an
            instance, of which less can be checked and which is not closed.
        steps: random steps at most.
        seed: seed of environment and actions.

    Returns:
        The findings, at least one a check unless a fault before makes it pointless.

    Raises:
        UsageError: the environment cannot be made.
    """
    if steps < 1 or seed < 0:
        raise UsageError(
            f"steps is {steps} and seed {seed}; give at least 1 and a seed that is not negative."
        )
    subject, findings = Subject(env, steps, seed), []
    try:
        # Without a space only that can be said.
        for check in CHECKS[:1] if missing_spaces(subject.env) else CHECKS:
            findings.extend(_run(check, subject))
    finally:
        subject.close()
    return Report(subject.name, tuple(findings))


def _run(check: Callable[[Subject], Iterable[Finding]], subject: Subject) -> list[Finding]:
    """What a check finds; what it raises is a finding too."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        return list(check(subject))
    except (UsageError, RunFailure) as error:
        return [Finding(name, Level.ERROR, str(error))]
    except (Exception, SystemExit) as error:
        return [
            Finding(
                name,
                Level.ERROR,
                f"{type(error).__name__} was raised while this was checked{after_colon(error)}; "
                "correct the environment.",
            )
        ]
