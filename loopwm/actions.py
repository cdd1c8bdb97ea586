"""What environments, models and planners agree on about actions."""

import dataclasses

import numpy as np
from jaxtyping import Array, Float, Int

from loopwm.errors import UsageError

_FOREVER = 2**30
"""Steps in 32 bits, with room for rounding; no run is as long."""


@dataclasses.dataclass(frozen=True)
class ActionLayout:
    """What kind of vector an encoded action u is: numbers in a box, or one-hot groups.

    Groups stand one behind the other and each holds a single 1: Discrete(n) is one group of n,
    MultiDiscrete one group an entry, MultiBinary one group of 2 an entry.
    """

    size: int
    """Length of u."""
    groups: tuple[int, ...] | None = None
    """Categories of each group, which sum to `size`; None where u is in [−1, 1]."""

    def __post_init__(self):
        """Refuses sizes that do not fit together."""
        groups = (self.size,) if self.groups is None else self.groups
        if not groups or min(groups) < 1 or sum(groups) != self.size:
            raise UsageError(
                f"An action of {self.size} entries cannot have the groups {self.groups}; give at "
                "least one of at least one category, and the sum of all as the size."
            )

    @classmethod
    def box(cls, size: int) -> "ActionLayout":
        """A vector in [−1, 1] of a size, at least 1."""
        return cls(size)

    @classmethod
    def categorical(cls, *groups: int) -> "ActionLayout":
        """One-hot groups with these numbers of categories, each at least 1."""
        return cls(sum(groups), groups)

    @property
    def discrete(self) -> bool:
        """Whether u is made of one-hot groups."""
        return self.groups is not None


def held_steps(
    v: Float[Array | np.ndarray, "*any"], hold: tuple[int, int]
) -> Int[Array | np.ndarray, "*any"]:
    r"""For how many steps an action is held, log-uniform: $\lfloor m ((n + 1) / m)^v \rfloor$.

    Args:
        v: uniform in [0, 1), any shape; a NumPy array or a JAX one.
        hold: m and n, the fewest and the most steps, at least 1.

    Returns:
        The numbers of steps, int32, the shape of v.
    """
    shortest, longest = (min(bound, _FOREVER) for bound in hold)
    steps = shortest * ((longest + 1.0) / shortest) ** v
    # Rounding may lift a power to n + 1.
    return steps.astype(np.int32).clip(shortest, longest)
