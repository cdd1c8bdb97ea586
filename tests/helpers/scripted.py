"""An actor without networks, for tests of what surrounds one."""

import types

import numpy as np


class Scripted:
    """Always the same action; says that each decision took 3 loops."""

    def __init__(self, action, finite_for=10**9):
        self.action, self.finite_for = np.asarray(action), finite_for
        self.calls, self.seeds, self.restarts, self.explored = 0, [], [], set()

    def initial_state(self, *, seed, batch):
        self.seeds.append(seed)
        return self._state(batch)

    def _state(self, batch):
        finite = np.full(batch, self.calls <= self.finite_for)
        bound = np.arange(batch) + self.calls
        stats = types.SimpleNamespace(
            finite=finite, loops=np.full(batch, 3.0), bound=bound, returns=None
        )
        return types.SimpleNamespace(stats=stats, batch=batch)

    def restart(self, state, mask):
        self.restarts.append(np.array(mask))
        return state

    def act(self, observation, state, *, explore):
        self.calls += 1
        self.explored.add(explore)
        batched = np.stack([self.action] * state.batch)
        single = np.ndim(observation) == 1
        return (self.action if single else batched), self._state(state.batch)
