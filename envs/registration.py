"""Registers our own environments with Gymnasium, as loopwm/NAME-v0."""

import gymnasium as gym

OWN = {
    "loopwm/SlidingIce-v0": ("loopwm.envs.sliding_ice:SlidingIce", 50),
    "loopwm/Automaton-v0": ("loopwm.envs.automaton_ring:AutomatonRing", 50),
    "loopwm/Dominoes-v0": ("loopwm.envs.dominoes:Dominoes", 50),
    "loopwm/FloodMaze-v0": ("loopwm.envs.flood_maze:FloodMaze", 50),
    "loopwm/NLinkPendulum-v0": ("loopwm.envs.nlink_pendulum:NLinkPendulum", 200),
}
"""Class and time limit, in steps, of each id."""


def register() -> None:
    """Registers those that are not registered yet."""
    for name, (entry_point, limit) in OWN.items():
        if name not in gym.registry:
            gym.register(name, entry_point=entry_point, max_episode_steps=limit)
