"""The published parametrisation, of which the retention alone is bounded, under our adversary.

    python docs/results/stability.py cost    # trains the contractive cores
    python docs/results/published.py

Trains ten cores of mode `linear` where runs/stability lacks them, prints Markdown, and draws
docs/results/published.png.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from foundation import SEEDS, in_pairs, read
from matplotlib.figure import Figure
from stability import ROOT, STEPS, trained, updates_of

import loopwm
from loopwm.stability import attack


def main() -> None:
    """The published parametrisation under the same search, and what its loop then does."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    in_pairs(
        [(env, "linear", seed) for seed in SEEDS for env in STEPS],
        lambda job, core: trained(*job, core),
    )
    print(
        "| env | seed | solved_at | certified (level linear) | largest ratio of the whole update | "
        "largest growth of a difference within 64 loops | inputs where it grew |\n"
        "|---|---|---|---|---|---|---|"
    )
    curves: dict[str, list[np.ndarray]] = {"linear": [], "contractive": []}
    for env in STEPS:
        for seed in SEEDS:
            run = ROOT / f"{env}-linear-{seed}"
            rate = loopwm.certify(loopwm.load(run).world_model.core).rate
            one = 0.0
            for number, update in enumerate(updates_of(run, 10)):
                with jax.enable_x64(True):
                    key, width = jax.random.key(number), len(update.retention)
                    found = attack(
                        update, update.norm, width, key=key, starts=16, scales=(1.0, 10.0)
                    )
                one = max(one, found.ratio)
            curves["linear"].append(separations(run))
            curves["contractive"].append(separations(ROOT / f"{env}-contractive-{seed}"))
            grown = curves["linear"][-1]
            print(
                f"| {env} | {seed} | {read(run)[0]['solved_at']} | {rate:.4f} | {one:.3f} | "
                f"{grown.max():.3g} | {int(np.sum(grown[:, -1] > 1.0))} of {len(grown)} |",
                flush=True,
            )
    draw(curves)


def separations(run: pathlib.Path, loops: int = 64) -> np.ndarray:
    """‖a_t − b_t‖ / ‖a_0 − b_0‖ of states 10⁻⁶ apart, shape (inputs, loops + 1).

    The largest of 64 pairs at each input.
    """
    rows = []
    for number, update in enumerate(updates_of(run, 10)):
        with jax.enable_x64(True):
            rng, width = np.random.default_rng(number), len(update.retention)
            a, offset = jnp.asarray(rng.normal(size=(2, 64, width)))
            pair = jnp.stack([a, a + 1e-6 * offset])

            @jax.jit
            def apart(pair, update=update):
                def one(pair, _):
                    after = jax.vmap(jax.vmap(update))(pair)
                    return after, jax.vmap(update.norm)(after[0] - after[1])

                first = jax.vmap(update.norm)(pair[0] - pair[1])
                following = jax.lax.scan(one, pair, None, loops)[1]
                return jnp.concatenate([first[None], following]) / first

            rows.append(np.asarray(apart(pair)).max(axis=1))
    return np.stack(rows)


def draw(curves: dict[str, list[np.ndarray]]) -> None:
    """docs/results/published.png: how far near states part, loop by loop."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    titles = {"linear": "only the retention bounded", "contractive": "whole update certified"}
    for name, colour in (("linear", "#c1440e"), ("contractive", "#2a6f97")):
        for number, line in enumerate(np.concatenate(curves[name])):
            label = titles[name] if number == 0 else None
            axes.semilogy(np.maximum(line, 1e-14), color=colour, alpha=0.25, lw=0.8, label=label)
    axes.semilogy(0.98 ** np.arange(65), "k--", lw=1.2, label="certified envelope 0.98ᵗ")
    axes.axhline(1.0, color="grey", lw=0.6)
    axes.set_xlabel("loop t")
    axes.set_ylabel("‖aₜ − bₜ‖ / ‖a₀ − b₀‖")
    axes.set_title("Two states 10⁻⁶ apart, ten inputs of ten trained cores of each kind")
    axes.legend(frameon=False)
    figure.savefig(pathlib.Path(__file__).with_name("published.png"), dpi=110)


if __name__ == "__main__":
    main()
