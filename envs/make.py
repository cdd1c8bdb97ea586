"""Makes environments by id, with errors that teach."""

import functools
import weakref
from collections.abc import Callable

import gymnasium as gym
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id

from loopwm.envs.action_repeat import ActionRepeat, RepeatedSource
from loopwm.envs.guard import GuardedEnv, missing_package
from loopwm.errors import UsageError, after_colon, as_clause

EnvSource = str | Callable[[], gym.Env] | RepeatedSource
"""A Gymnasium id ("CartPole-v1", "my_module:MyEnv-v0"), a function that makes an environment, or
one of both with actions that are repeated."""

SAME_AGAIN = (
    "made the same environment twice, and runs make several; give what makes a new one each time"
)
"""What is wrong with a function, as a clause behind its name."""
OTHER_SPACES = (
    "has other spaces in one instance than in another; give it the same ones each time it is made"
)
"""What is wrong with instances that differ, as a clause behind their name."""


def env_name(source: EnvSource) -> str:
    """The name of an environment for files and messages."""
    if isinstance(source, RepeatedSource):
        return env_name(source.source)
    if isinstance(source, str):
        return source
    inner = source.func if isinstance(source, functools.partial) else source
    return as_clause(getattr(inner, "__name__", None) or repr(inner))


def recorded_name(source: EnvSource) -> str:
    """The name that a run's configuration keeps, with the version that Gymnasium takes for an id.

    So what has none is a function's: whoever loads the run of a class Pendulum does not get
    Gymnasium's.
    """
    name = env_name(source)
    if env_id(source) is None or is_known(name):
        return name
    try:
        namespace, base, version = parse_env_id(name)
    except gym.error.Error:
        return name
    newest = find_highest_version(namespace, base) if version is None else None
    return name if newest is None else get_env_id(namespace, base, newest)


def is_known(name: str) -> bool:
    """Whether a run's environment has a Gymnasium id: with its module, or registered here."""
    module, colon, _ = name.partition(":")
    return name in gym.registry or bool(colon) and module.replace(".", "_").isidentifier()


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
        UsageError: unknown id, module that cannot be imported, missing package, missing space, or
            a function whose environment has another render mode.
    """
    if isinstance(source, RepeatedSource):
        return ActionRepeat(make(source.source, render_mode=render_mode), source.times)
    name, env = env_name(source), unguarded(source, render_mode=render_mode)
    missing = missing_spaces(env)
    if missing:
        raise UsageError(f"'{name}' has no {missing[0]}; give it one of gymnasium.spaces.")
    guarded = GuardedEnv(env, name)
    if not isinstance(source, str) and render_mode is not None and env.render_mode != render_mode:
        guarded.close()
        raise UsageError(
            f"The function '{name}' made an environment with render_mode {env.render_mode!r}, not "
            f"{render_mode!r}; let the function itself give it that render mode."
        )
    return guarded


def innermost(env: gym.Env) -> gym.Env:
    """The environment inside all wrappers; its own `unwrapped` may be something else."""
    while isinstance(env, gym.Wrapper):
        env = env.env
    return env


def remembered(env: gym.Env) -> Callable[[], gym.Env | None]:
    """A reference to the environment inside all wrappers that does not keep it alive."""
    return weakref.ref(innermost(env))


def check_source(source: object) -> None:
    """Refuses what makes no environment, as an environment does not."""
    if not isinstance(source, str) and not callable(source):
        raise UsageError(
            f"{as_clause(source)} is no function that makes an environment, and runs make several; "
            "give the id of the environment, or a function that returns a new one each time."
        )


def missing_spaces(env: gym.Env) -> list[str]:
    """Which of its two spaces an environment does not have."""
    missing: list[str] = []
    for name in ("observation_space", "action_space"):
        try:
            space = getattr(env, name, None)
        except Exception:
            space = None
        if not isinstance(space, gym.Space):
            missing.append(name)
    return missing


def spaces_of(env: gym.Env) -> tuple[gym.Space, gym.Space]:
    """Those of observations and of actions, to be compared with another instance's."""
    return env.observation_space, env.action_space


def unguarded(source: str | Callable[[], gym.Env], *, render_mode: str | None = None) -> gym.Env:
    """Makes an environment as it is, with the errors of `make` but those about its attributes.

    Args:
        source: id or function; functions take no render mode.
        render_mode: Gymnasium render mode.
    """
    name = env_name(source)
    check_source(source)
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
    # A module that calls sys.exit would end the command as if all was well.
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"'{name}' could not be made ({type(error).__name__}{after_colon(error)}); correct the "
            "environment, or check the name with `loopwm envs`."
        ) from error
    if not isinstance(env, gym.Env):
        raise UsageError(
            f"'{name}' made a {type(env).__name__}, not a gymnasium.Env; give a function that "
            "returns an environment."
        )
    return env


def registered() -> list[str]:
    """Ids of all environments that Gymnasium knows here, sorted."""
    return sorted(gym.registry)
