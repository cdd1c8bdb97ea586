"""The clock: evaluations left out, compilation counted."""

import jax
import jax.numpy as jnp
import pytest

from loopwm.training import Clock
from loopwm.training import clock as module


@pytest.fixture
def now(monkeypatch):
    """Time that only the test moves."""
    value = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: value[0])
    return value


def test_a_pause_is_left_out(now):
    clock = Clock()
    assert clock.read() == (0.0, 0.0)
    clock.start(10.0, 2.0)
    now[0] += 5.0
    assert clock.read() == (15.0, 2.0)
    with clock.paused():
        now[0] += 1000.0
        assert clock.read() == (15.0, 2.0)
    now[0] += 1.0
    assert clock.read() == (16.0, 2.0)


def test_a_pause_that_raises_goes_on(now):
    clock = Clock()
    clock.start(0.0, 0.0)
    with pytest.raises(ValueError, match="x"), clock.paused():
        now[0] += 7.0
        raise ValueError("x")
    now[0] += 1.0
    assert clock.read()[0] == 1.0


def test_compilation_is_counted_unless_paused():
    clock = Clock()
    clock.start(0.0, 1.0)
    jax.jit(lambda x: jnp.sin(x) + 1.0)(2.0)
    compiled = clock.read()[1]
    assert compiled > 1.0
    with clock.paused():
        jax.jit(lambda x: jnp.sin(x) + 2.0)(2.0)
    assert clock.read()[1] == compiled


def test_clocks_do_not_pile_up_listeners():
    from jax._src import monitoring

    Clock()
    before = len(monitoring._event_duration_secs_listeners)
    for _ in range(5):
        Clock()
    assert len(monitoring._event_duration_secs_listeners) == before
