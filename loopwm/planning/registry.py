"""Planners by name; a further one is a file and a line here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from loopwm.actions import ActionLayout
from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.models.ranges import check_not_negative
from loopwm.planning.bonus import Bonus
from loopwm.planning.categorical_cem import CategoricalCEMConfig
from loopwm.planning.coarse import CoarseConfig
from loopwm.planning.gradient import GradientConfig
from loopwm.planning.gumbel_muzero import GumbelMuZeroConfig
from loopwm.planning.icem import ICEMConfig
from loopwm.planning.mppi import MPPIConfig
from loopwm.planning.planner import PlannerBuilder
from loopwm.planning.random_shooting import RandomShootingConfig

PLANNERS: dict[str, type[PlannerBuilder]] = {
    "mppi": MPPIConfig,
    "categorical_cem": CategoricalCEMConfig,
    "icem": ICEMConfig,
    "gradient": GradientConfig,
    "gumbel_muzero": GumbelMuZeroConfig,
    "random_shooting": RandomShootingConfig,
}
"""The first that fits an action space is its default."""


@dataclasses.dataclass(frozen=True)
class PlanningConfig:
    """Which planner acts, and the settings of each."""

    planner: str | None = None
    """A registered name; when null, the first in the registry that fits the actions: mppi for Box,
    categorical_cem for discrete ones."""
    settings: Mapping[str, PlannerBuilder] = dataclasses.field(
        default_factory=dict, metadata={"members": PLANNERS}
    )
    """Settings by a planner's name, each a setting of its own: planning.mppi, planning.icem …; a
    name that is left out gets its defaults."""
    bonus: Bonus = Bonus.NONE
    """Added to imagined rewards while exploring, never in evaluation: none, residual, certified or
    disagreement."""
    bonus_weight: float = 1.0
    """w: the bonus b counts like a reward of w·b, in units of the largest absolute reward seen."""

    def __post_init__(self):
        """Refuses a name that is not registered, and completes the settings."""
        if self.planner is not None and self.planner not in PLANNERS:
            raise UsageError(
                f"planning.planner is '{self.planner}'; give one of {', '.join(PLANNERS)}."
            )
        object.__setattr__(self, "bonus", member(Bonus, self.bonus, "planning.bonus"))
        check_not_negative("planning.", self, "bonus_weight")
        # All of them are written to a run's config.yaml, so that later defaults do not change it.
        complete = {name: kind() for name, kind in PLANNERS.items()} | dict(self.settings)
        object.__setattr__(self, "settings", complete)

    def __getattr__(self, name: str) -> Any:
        """Settings of a registered planner."""
        if name not in PLANNERS:
            raise AttributeError(name)
        return self.settings.get(name) or PLANNERS[name]()

    def choose(self, actions: ActionLayout, *, name: str | None = None) -> PlannerBuilder:
        """The planner for an action space.

        Args:
            actions: what kind of vector an action is.
            name: a registered name; the configuration's own choice when left out.

        Returns:
            The planner's configuration.

        Raises:
            UsageError: no such planner, or it does not fit the actions.
        """
        builders: dict[str, PlannerBuilder] = {key: getattr(self, key) for key in PLANNERS}
        kinds = (actions.discrete, None)
        fitting = [key for key, builder in builders.items() if builder.discrete in kinds]
        name = self.planner if name is None else name
        if name is None:
            return builders[fitting[0]]
        if name not in fitting:
            kind = "Discrete" if actions.discrete else "Box"
            listed = ", ".join(fitting[:-1])
            raise UsageError(
                f"Planner '{name}' cannot plan {kind} actions; use {listed} or {fitting[-1]}."
            )
        return builders[name]

    def check_depth(self, depth: int | None) -> None:
        """Refuses a coarse depth that is more than a model's.

        Args:
            depth: loops of the model's transitions; None for a model without loops.

        Raises:
            UsageError: a planner has such a one.
        """
        for name, builder in self.settings.items():
            for path, coarse in _coarse(f"planning.{name}", builder):
                wanted = coarse.depth or 0
                if depth is None and wanted > 1:
                    raise UsageError(
                        f"{path}.depth is {wanted}, but this world model has no loops to save; "
                        "set it to null."
                    )
                if depth is not None and wanted > depth:
                    raise UsageError(
                        f"{path}.depth is {wanted}, more than model.depth ({depth}); lower it."
                    )


def _coarse(path: str, config: Any) -> list[tuple[str, CoarseConfig]]:
    """Coarse settings anywhere in a configuration, with their dotted names."""
    found = []
    for field in dataclasses.fields(config):
        value, below = getattr(config, field.name), f"{path}.{field.name}"
        if isinstance(value, CoarseConfig):
            found.append((below, value))
        elif dataclasses.is_dataclass(value):
            found += _coarse(below, value)
    return found
