"""What is the same for every family in a comparison: data, updates, search."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Search:
    """The search that every family gets, at each size and task: all rates with all shapes."""

    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Learning rates that are tried."""
    shapes: int = 2
    """How many of a family's shapes (depth, layers, proportions) are tried, at the same size."""
    share: float = 0.4
    """Length of a trial, as a share of the full training."""
    seed: int = 10_000
    """Seed of data, weights and episodes of all trials; never one of a cell's."""

    @property
    def trials(self) -> int:
        """Number of trials, the same for every family."""
        return len(self.rates) * self.shapes


@dataclasses.dataclass(frozen=True)
class DynamicsProtocol:
    """Open-loop prediction of logged data."""

    env_steps: int = 20_000
    """Logged env steps of a task and seed; half of them with held random actions."""
    longest: int = 200
    """Env steps after which a logged episode is cut."""
    horizon: int = 8
    """K: steps of a training sequence, all decoded and supervised."""
    windows: int = 8_192
    """Training sequences at most."""
    updates: int = 2_000
    """Updates of a training."""
    batch_size: int = 64
    """Sequences an update."""
    steps: tuple[int, ...] = (1, 5, 20, 50)
    """Imagined steps after which the error is given."""
    sequences: int = 512
    """Test sequences at most."""
    recurrences: tuple[int, ...] = (1, 2, 4, 8)
    """Loops and different blocks that φ is fitted to, at the middle size, on tasks that say so;
    none without both families."""
    search: Search = Search()
    """The search of every family."""

    @property
    def measured_by(self) -> str:
        """What cells of this kind are compared by."""
        return "error"


@dataclasses.dataclass(frozen=True)
class ControlProtocol:
    """Ordinary training with the planner for a fixed number of env steps."""

    env_steps: int = 1_000
    """Env steps of a run."""
    episodes: int = 20
    """Episodes of the evaluation at the end, at most 1,000."""
    first_episode: int = 2_000_000
    """Environment's seed of the first of them where training had seed 0; a seed further, they begin
    1,000 further, so that no two trainings from different seeds are judged by the same episodes."""
    preset: str = "classic_control"
    """Preset of `loopwm train` that everything but model and learning rate is taken from."""
    depths: tuple[int, ...] = (1, 2, 4, 8)
    """Loops that a trained looped agent is evaluated with."""
    recurrences: tuple[int, ...] = ()
    """Loops and different blocks that φ is fitted to."""
    samples: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Samples of the planner in that evaluation, as shares of the preset's."""
    search: Search = Search(rates=(3e-4, 1e-3, 3e-3), shapes=1, share=0.5)
    """The search of every family."""

    @property
    def measured_by(self) -> str:
        """What cells of this kind are compared by."""
        return "return"


Protocol = DynamicsProtocol | ControlProtocol
