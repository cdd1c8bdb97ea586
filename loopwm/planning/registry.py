"""Planners by name; a further one is a file and a line here."""

import dataclasses

from loopwm.actions import ActionLayout
from loopwm.errors import UsageError
from loopwm.planning.categorical_cem import CategoricalCEMConfig
from loopwm.planning.mppi import MPPIConfig
from loopwm.planning.planner import PlannerBuilder

PLANNERS: dict[str, type[PlannerBuilder]] = {
    "mppi": MPPIConfig,
    "categorical_cem": CategoricalCEMConfig,
}


@dataclasses.dataclass(frozen=True)
class PlanningConfig:
    """Settings of each planner; the action space decides which one acts."""

    mppi: MPPIConfig = MPPIConfig()
    """For Box actions."""
    categorical_cem: CategoricalCEMConfig = CategoricalCEMConfig()
    """For Discrete, MultiDiscrete and MultiBinary actions."""

    def choose(self, actions: ActionLayout, *, name: str | None = None) -> PlannerBuilder:
        """The planner for an action space.

        Args:
            actions: what kind of vector an action is.
            name: a registered name; the first that fits the actions when left out.

        Returns:
            The planner's configuration.

        Raises:
            UsageError: no such planner, or it does not fit the actions.
        """
        builders: dict[str, PlannerBuilder] = {key: getattr(self, key) for key in PLANNERS}
        fitting = [key for key, builder in builders.items() if builder.discrete == actions.discrete]
        if name is None:
            return builders[fitting[0]]
        if name not in fitting:
            kind = "Discrete" if actions.discrete else "Box"
            raise UsageError(
                f"Planner '{name}' cannot plan {kind} actions; use {' or '.join(fitting)}."
            )
        return builders[name]
