"""Makes environments by id, with errors that teach."""

from collections.abc import Callable

import gymnasium as gym

from loopwm.envs.action_repeat import ActionRepeat, RepeatedSource
from loopwm.envs.guard import GuardedEnv, missing_package
from loopwm.errors import UsageError, as_clause

EnvSource = str | Callable[[], gym.Env] | RepeatedSource
"""A Gymnasium id ("CartPole-v1", "my_module:MyEnv-v0"), a function that makes an environment, or
one of both with actions that are repeated."""


def env_name(source: EnvSource) -> str:
    """The name of an environment for files and messages."""
    if isinstance(source, RepeatedSource):
        return env_name(source.source)
    return source if isinstance(source, str) else getattr(source, "__name__", repr(source))


def env_id(source: EnvSource) -> str | None:
    """The Gymnasium id of an environment; None where a function makes it."""
    inner = source.source if isinstance(source, RepeatedSource) else source
    return inner if isinstance(inner, str) else None


def make(source: EnvSource, *, render_mode: str | None = None) -> gym.Env:
    """Makes one guarded environment.

    Args:
        source: id or function, or one of both with repeated actions.
        render_mode: Gymnasium render mode.

    Returns:
        The environment; its faults are raised as `RunFailure`.

    Raises:
        UsageError: unknown id, module that cannot be imported, missing package.
    """
    if isinstance(source, RepeatedSource):
        return ActionRepeat(make(source.source, render_mode=render_mode), source.times)
    name = env_name(source)
    try:
        if not isinstance(source, str):
            env = source()
        elif render_mode is None:
            env = gym.make(source, disable_env_checker=True)
        else:
            env = gym.make(source, render_mode=render_mode, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        raise missing_package(name, error) from error
    except gym.error.UnregisteredEnv as error:
        raise UsageError(
            f"There is no environment '{name}' ({as_clause(error)}); check the name with `loopwm "
            "envs`, and give your own as module:Id."
        ) from error
    except ModuleNotFoundError as error:
        raise UsageError(
            f"'{name}' could not be imported ({as_clause(error)}); install the package, or use the "
            "folder that holds the module as the current one."
        ) from error
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"'{name}' could not be made ({type(error).__name__}: {as_clause(error)}); correct the "
            "environment, or check the name with `loopwm envs`."
        ) from error
    if not isinstance(env, gym.Env):
        raise UsageError(
            f"'{name}' made a {type(env).__name__}, not a gymnasium.Env; give a function that "
            "returns an environment."
        )
    return GuardedEnv(env, name)


def registered() -> list[str]:
    """Ids of all environments that Gymnasium knows here, sorted."""
    return sorted(gym.registry)
