"""`loopwm envs`."""


def envs() -> None:
    """List the Gymnasium environments that are registered here."""
    from loopwm.envs import registered

    for name in registered():
        print(name)
