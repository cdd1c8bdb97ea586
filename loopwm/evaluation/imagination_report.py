"""What an evaluation showed of an agent's imagination: sections of a page, and pictures."""

import functools
import html

import numpy as np
from jaxtyping import UInt8

from loopwm.envs import AbstractObservationCodec
from loopwm.evaluation.imagination import HORIZONS, Imagination, Watched
from loopwm.evaluation.observation_parts import Frames, Series, split
from loopwm.training import Candidates

HEADING = "Imagination beside reality"
"""Heading of the section about an imagined episode."""
PLANNER_HEADING = "What the planner weighed"
"""Heading of the section about the planner's candidates."""


def watched_sections(watched: Watched, codec: AbstractObservationCodec) -> str:
    """Both sections as HTML that needs no other file.

    Args:
        watched: what an evaluation showed.
        codec: codec of the observations.

    Returns:
        The imagination beside the episode, and the planner's candidates, if there were any.
    """
    # Imported here, as below: drawing needs matplotlib, which acting does not.
    from loopwm.evaluation import imagination_figures as figures
    from loopwm.evaluation.canvas import image

    series, frames = _parts(watched.imagination, codec)
    sentences = [*about(watched), *errors(watched.imagination), _shown(series, frames)]
    parts = [f"<h2>{HEADING}</h2>", _paragraph(sentences)]
    draw = functools.partial(figures.curves_figure, watched.imagination, series)
    parts.append(image(draw, "Error, reward, continuation and observation, real and imagined"))
    if frames:
        draw = functools.partial(figures.frames_figure, frames)
        parts.append(image(draw, "Frames of the episode over the imagined ones"))
    candidates = watched.candidates
    if candidates is not None:
        parts += [f"<h2>{PLANNER_HEADING}</h2>", _paragraph(weighed(candidates, watched.env_steps))]
        if len(candidates.best) > 1:
            draw = functools.partial(figures.candidates_figure, candidates)
            parts.append(image(draw, "Returns of the candidates against the iteration"))
    return "\n".join(parts)


def watched_paragraph(sentence: str) -> str:
    """The section where there is nothing but a sentence to show."""
    return f"<h2>{HEADING}</h2>\n{_paragraph([sentence])}"


def pictures(
    watched: Watched, codec: AbstractObservationCodec
) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
    """The figures in red, green and blue, for TensorBoard by tag."""
    from loopwm.evaluation import imagination_figures as figures
    from loopwm.evaluation.canvas import LIGHT, pixels

    series, frames = _parts(watched.imagination, codec)
    drawn = {"imagination/curves": figures.curves_figure(watched.imagination, series, LIGHT)}
    if frames:
        drawn["imagination/frames"] = figures.frames_figure(frames, LIGHT)
    if watched.candidates is not None and len(watched.candidates.best) > 1:
        drawn["planner/candidates"] = figures.candidates_figure(watched.candidates, LIGHT)
    return {tag: pixels(figure) for tag, figure in drawn.items()}


def _parts(
    imagination: Imagination, codec: AbstractObservationCodec
) -> tuple[list[Series], list[Frames]]:
    """What there is to see of the observations, entries and images apart."""
    pieces = split(codec, imagination.episode.observation[1:], imagination.observation)
    series = [piece for piece in pieces if isinstance(piece, Series)]
    return series, [piece for piece in pieces if isinstance(piece, Frames)]


def about(watched: Watched) -> list[str]:
    """What was played, and of which level it is."""
    episode, steps = watched.imagination.episode, len(watched.imagination.error)
    if episode.terminated:
        end = "with which its task ended"
    elif episode.truncated:
        end = "with which its time ran out"
    else:
        end = "after which it was not over"
    return [
        f"One episode of the agent{_moment(watched.env_steps)}, in an environment of its own (seed "
        f"{episode.seed}): its first {steps} env step(s), {end}.",
        "The world model saw the first observation alone, and imagined the others, the rewards and "
        "the continuation (the probability that the task does not end) under the very actions that "
        "were taken (open loop).",
        "This was observed of one episode (level 'empirical') and guarantees nothing.",
    ]


def errors(imagination: Imagination) -> list[str]:
    """The open-loop error at some horizons."""
    error, unmoved = imagination.error, imagination.unmoved
    told = [k for k in HORIZONS if k <= len(error)]
    parts = [f"{error[k - 1]:.3g} after {k} step(s) ({unmoved[k - 1]:.3g})" for k in told]
    found = [
        "The open-loop error is the root mean square over the entries of an observation, "
        f"normalised as the model sees them: {', '.join(parts)}; in brackets, that of the first "
        "observation, held.",
    ]
    broken = ~np.isfinite(error)
    if broken.any():
        found.append(f"From step {int(broken.argmax()) + 1} on it is not finite.")
    return found


def weighed(candidates: Candidates, env_steps: int | None) -> list[str]:
    """What the planner's candidates were worth, from the first iteration to the last."""
    iterations = len(candidates.best)

    def course(values: np.ndarray) -> str:
        ends = values[[0, -1]] if iterations > 1 else values
        return " to ".join(f"{value:.3g}" for value in ends)

    ends = "From the first to the last it goes" if iterations > 1 else "It is"
    return [
        f"Returns of the action sequences that the planner tried out in imagination, in the mean "
        f"over {candidates.decisions} decision(s) of the agent{_moment(env_steps)}, in "
        "normalised units: of discounted rewards over the largest absolute one, times 1 − γ and "
        "the critic's zoom, and of the critic's value at the end.",
        f"A decision has {iterations} iteration(s).",
        f"{ends}: best {course(candidates.best)}, mean {course(candidates.mean)}, standard "
        f"deviation {course(candidates.spread)}.",
        "This is what the model imagines (level 'empirical'), not what was gained.",
    ]


def _shown(series: list[Series], frames: list[Frames]) -> str:
    """Which entries are drawn, and in which units."""
    from loopwm.evaluation.imagination_figures import FRAMES, IMAGES, SERIES

    told = []
    if series:
        told.append(
            f"{_first(len(series), SERIES, 'entry', 'entries')} of the observation, in the "
            "environment's units"
        )
    if frames:
        told.append(
            f"{_first(len(frames), IMAGES, 'image or grid', 'images and grids')} of the "
            f"observation, at {FRAMES} steps at most, the real one over the imagined one"
        )
    return f"Shown are rewards in the environment's units, {'; '.join(told)}."


def _first(count: int, most: int, one: str, many: str) -> str:
    if count == 1:
        return f"the only {one}"
    return f"all {count} {many}" if count <= most else f"the first {most} of {count} {many}"


def _moment(env_steps: int | None) -> str:
    return "" if env_steps is None else f" at env step {env_steps}"


def _paragraph(sentences: list[str]) -> str:
    return f"<p>{html.escape(' '.join(sentences))}</p>"
