"""`loopwm check-env`."""

import json
from typing import Annotated

import tyro

from loopwm.cli.output import json_alone


def check_env(
    env_id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV_ID")],
    /,
    *,
    steps: int = 1_000,
    seed: int = 0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Check an environment before training in it, and say how to mend what is found.

    The exit status is 1 if there is an error, 0 if there are only warnings or none, and 2 if there
    is no such environment.

    Args:
        env_id: Gymnasium id, such as CartPole-v1 or my_module:MyEnv-v0.
        steps: random steps at most.
        seed: seed of environment and actions.
        as_json: print one JSON object instead of lines.
    """
    from loopwm.envs import checks

    with json_alone(as_json):
        report = checks.check_env(env_id, steps=steps, seed=seed)
    if as_json:
        print(json.dumps(report.record()))
        return report.exit_status
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        print(f"{finding.level:<7}  {finding.name:<{width}}  {finding.message}")
    record = report.record()
    print(f"{report.env}: errors {record['errors']}, warnings {record['warnings']}")
    return report.exit_status
