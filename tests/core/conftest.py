"""A small core, and the same mathematics in float64 NumPy as an independent reference."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import CoreConfig, LoopedCore
from loopwm.nn import resolve

LATENT, ACTION, WIDTH = 5, 2, 8


@dataclasses.dataclass(frozen=True)
class Reference:
    """One bound update in float64: h⁺ = ā⊙h + (1−ā)⊙γ·L₂(L₁(h)), straight from the formula."""

    weights: list[np.ndarray]
    injected: list[np.ndarray]
    retention: np.ndarray
    gamma: float

    def __call__(self, h: np.ndarray) -> np.ndarray:
        y = h
        for s, b in zip(self.weights, self.injected, strict=True):
            y = y - s.T @ np.maximum(s @ y + b, 0.0)
        return self.retention * h + (1.0 - self.retention) * self.gamma * y

    @property
    def rate(self) -> float:
        return float(np.max(self.retention + (1.0 - self.retention) * self.gamma))

    def norm(self, x: np.ndarray) -> float:
        channel = self.retention + (1.0 - self.retention) * self.gamma
        return float(np.sqrt(np.sum(x**2 / ((1.0 - self.retention) * channel))))

    def fixed_point(self) -> np.ndarray:
        h = np.zeros_like(self.retention)
        for _ in range(int(np.ceil(np.log(1e-14) / np.log(self.rate)))):
            h = self(h)
        return h


def reference_of(update) -> Reference:
    """The float64 twin of a bound update whose weights are resolved."""
    return Reference(
        weights=[np.asarray(layer.weight, np.float64) for layer in update.layers],
        injected=[np.asarray(b, np.float64) for b in update.injected],
        retention=np.asarray(update.retention, np.float64),
        gamma=float(np.float32(update.gamma)),
    )


@pytest.fixture(scope="session")
def reference():
    return reference_of


@pytest.fixture(scope="session")
def core() -> LoopedCore:
    return LoopedCore(LATENT, ACTION, CoreConfig(width=WIDTH), key=jax.random.key(5))


@pytest.fixture(scope="session")
def perturbed(core):
    """Cores whose free weights are multiplied, by name: fresh, loud and hostile."""

    def scaled(block: float, prelude: float, injection: float) -> LoopedCore:
        def leaves(c):
            return [
                *(layer.weight.free for layer in c.block.layers),
                *(layer.injection for layer in c.block.layers),
                c.prelude.linear.weight,
                c.prelude.linear.bias,
                c.block.retention.weight,
            ]

        factors = [block] * 2 + [injection] * 2 + [prelude] * 2 + [injection]
        new = [w * f for w, f in zip(leaves(core), factors, strict=True)]
        return eqx.tree_at(leaves, core, new)

    return {
        "fresh": core,
        "block x100": scaled(100.0, 1.0, 1.0),
        "prelude x1e6": scaled(1.0, 1e6, 1.0),
        "all loud": scaled(1e4, 1e3, 100.0),
        "quiet": scaled(1e-3, 1e-3, 1e-3),
    }


@pytest.fixture(scope="session")
def bind():
    """Resolves a core and binds it to the input of (z, u), jitted once for all tests."""

    @eqx.filter_jit
    def bound(core, z, u):
        core = resolve(core)
        return core.bind(core.prelude(z, u))

    return bound


@pytest.fixture
def inputs(rng):
    """One latent state and one action."""
    return (
        jnp.asarray(rng.normal(size=LATENT), jnp.float32),
        jnp.asarray(rng.normal(size=ACTION), jnp.float32),
    )
