"""How often 95 % intervals of a comparison hold the true ratio, for docs/results/evidence.md.

    python docs/results/coverage.py [--trials 400] [--seeds 5 10 20]

Errors are made up: (N / s)^−1/2 at three sizes, with the family's scale s, times what a seed's
data have in common for all models (`--common`, deviation of the logarithm) and what each training
adds of its own (`--own`). The true ratio of parameters is that of the scales. Intervals with paired
seeds are those that `loopwm compare` reports; unpaired ones are of the same errors with the other
family's seeds renumbered.
"""

import argparse

import numpy as np

from loopwm.evaluation.compare import Point, iso_ratio

SIZES = (5_000.0, 20_000.0, 80_000.0)


def points(scale, common, own, rng) -> list[Point]:
    """A family's errors at every size."""
    return [
        Point(size, dict(enumerate((size / scale) ** -0.5 * np.exp(common + own * noise))))
        for size, noise in zip(SIZES, rng.normal(size=(len(SIZES), len(common))), strict=True)
    ]


def held(seeds: int, words: argparse.Namespace, rng) -> tuple[list[float], list[float]]:
    """Share of trials whose interval holds the ratio, and median width in factors.

    Paired, then unpaired.
    """
    inside, width = np.zeros((2, words.trials), bool), np.zeros((2, words.trials))
    for trial in range(words.trials):
        common = words.common * rng.normal(size=seeds)
        ours, theirs = (points(s, common, words.own, rng) for s in (1.0, words.ratio))
        apart = [
            Point(p.params, {(seed + 1) % seeds: v for seed, v in p.values.items()}) for p in theirs
        ]
        for row, other in enumerate((theirs, apart)):
            found = iso_ratio([(ours, other)], logarithmic=True)
            assert found is not None
            low, high = found.low or 0.0, found.high or np.inf
            inside[row, trial] = low <= words.ratio <= high
            width[row, trial] = high / low if low else np.inf
    return list(inside.mean(axis=1)), list(np.median(width, axis=1))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="*", default=(5, 10, 20))
    parser.add_argument("--ratio", type=float, default=1.0)
    parser.add_argument("--common", type=float, default=0.1)
    parser.add_argument("--own", type=float, default=0.03)
    words = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| seeds | paired: held, highest over lowest | unpaired: held, highest over lowest |")
    print("|---|---|---|")
    for seeds in words.seeds:
        shares, widths = held(seeds, words, rng)
        entries = [f"{s:.1%}, {w:.2f}" for s, w in zip(shares, widths, strict=True)]
        print(f"| {seeds} | {' | '.join(entries)} |", flush=True)


if __name__ == "__main__":
    main()
