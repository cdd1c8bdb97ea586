"""Sentences about a comparison, in words that its intervals allow."""

from loopwm.evaluation.compare.analysis import Analysis, Scoped, Versus
from loopwm.evaluation.compare.cells import Status
from loopwm.evaluation.compare.families import FAMILIES
from loopwm.evaluation.compare.fronts import Ratio

FEWER, MORE, UNCLEAR = "fewer", "more", "not told apart"
ENOUGH_SEEDS = 5


def word(ratio: Ratio) -> str:
    """How many parameters ours needs beside the other family: fewer, more, or not told apart.

    `fewer` and `more` are said only where the whole interval is on one side of 1.
    """
    if not ratio.interval:
        return UNCLEAR
    if ratio.low is not None and ratio.low > 1.0:
        return FEWER
    if ratio.high is not None and ratio.high < 1.0:
        return MORE
    return UNCLEAR


def shown(ratio: Ratio) -> str:
    """A ratio with its interval, such as "2.1 (95 % interval 1.5 to 3.0)"."""
    bound = "" if ratio.bound in ("exact", "open") else f"{ratio.bound} "
    if ratio.estimate is None:
        middle = "no number, bounded on neither side"
    else:
        middle = f"{bound}{ratio.estimate:.3g}"
    if not ratio.interval:
        return f"{middle} (one seed, so no interval)"
    low = "open" if ratio.low is None else f"{ratio.low:.3g}"
    high = "open" if ratio.high is None else f"{ratio.high:.3g}"
    return f"{middle} (95 % interval {low} to {high})"


def verdict(analysis: Analysis) -> str:
    """The paragraph: what the numbers say about parameters at equal error or return."""
    suite = analysis.suite
    sentences = [_scope(analysis)]
    if suite.name == "debug":
        sentences.append(
            "This is the debug suite: it shows that everything works, and nothing in it is "
            "evidence."
        )
    sentences += _ratio_sentences(analysis)
    sentences += _versus_sentences(analysis.versus)
    sentences += worth_sentences(analysis)
    sentences += search_sentences(analysis)
    fewest = min((len(place.by_seed) for place in analysis.places), default=suite.seeds)
    if fewest < ENOUGH_SEEDS:
        where = "" if fewest == suite.seeds else " at some places"
        sentences.append(
            f"With {fewest} seed(s){where}, fewer than {ENOUGH_SEEDS}, intervals are too rough to "
            "rest a claim on."
        )
    return " ".join(sentences)


def _scope(analysis: Analysis) -> str:
    suite = analysis.suite
    run = [t for t in suite.tasks if any(p.task == t for p in analysis.places)]
    counted = ", ".join(
        f"{analysis.count(status)} {status}" for status in Status if analysis.count(status)
    )
    sizes = " and ".join(f"{size:,}" for size in suite.sizes)
    return (
        f"The looped world model is compared by {suite.words}, on {len(run)} task(s) with {sizes} "
        f"parameters and {suite.seeds} seed(s); of {len(analysis.records)} cells {counted}."
    )


def _ratio_sentences(analysis: Analysis) -> list[str]:
    equal = "error" if analysis.errors else "return (within 5 %)"
    overall = [scoped for scoped in analysis.ratios if scoped.scope == "all"]
    if not overall:
        return [
            f"There is no ratio of parameters at equal {equal}: it takes our family, another one, "
            "and two sizes of both."
        ]
    found = []
    for said in (FEWER, MORE, UNCLEAR):
        here = [scoped for scoped in overall if word(scoped.ratio) == said]
        if here:
            listed = "; ".join(_item(scoped) for scoped in here)
            if said == UNCLEAR:
                found.append(
                    f"At equal {equal} its number of parameters is not told apart from that of "
                    f"the {listed}."
                )
            else:
                found.append(
                    f"At equal {equal} the looped world model needs {said} parameters than the "
                    f"{listed}."
                )
    bounds = {scoped.ratio.bound for scoped in overall}
    if bounds & {"at least", "at most"}:
        found.append(
            "Where a ratio is a bound, one family did not come down to what the smallest model of "
            "the other reaches (not reached within these sizes)."
            if analysis.errors
            else "Where a ratio is a bound, the smallest model of one family reaches within 5 % "
            "what the other comes up to, or more (not reached within these sizes)."
        )
    if "open" in bounds:
        found.append(
            "Where there is no number, the smallest models of both families reach what they are "
            "compared at, on the same task or each on another, so that nothing bounds the ratio."
        )
    smallest, largest = min(analysis.suite.sizes), max(analysis.suite.sizes)
    found.append(
        f"The sizes are a factor of {largest / smallest:.3g} apart, so that a larger ratio would "
        "not be seen."
    )
    return found


def _item(scoped: Scoped) -> str:
    used, asked = scoped.ratio.tasks, scoped.asked
    on = "" if used == asked else f" on {used} of {asked} tasks"
    return f"{FAMILIES[scoped.family].words}, ratio{on} {shown(scoped.ratio)}"


def _versus_sentences(versus: list[Versus]) -> list[str]:
    if not versus:
        return []
    better = sum(v.better is True for v in versus)
    worse = sum(v.better is False for v in versus)
    return [
        f"At equal size it does better in {better}, worse in {worse}, and is not told apart in "
        f"{len(versus) - better - worse} of {len(versus)} comparisons by task and size."
    ]


def worth_sentences(analysis: Analysis) -> list[str]:
    """What a recurrence is worth in different blocks, a sentence a task."""
    found = []
    for task, worth in analysis.worths.items():
        low, high = worth.phi.low, worth.phi.high
        spread = "one seed, so no interval"
        if low is not None and high is not None:
            spread = f"95 % interval {low:.2f} to {high:.2f}"
        bounds = ""
        if worth.limited:
            counts = ", ".join(map(str, worth.limited))
            bounds = (
                f"; the error of {counts} loops lies outside what the stacks reach, so that φ "
                "rests on a bound"
            )
        found.append(
            f"On {task} r loops are worth r^φ different blocks of the same width with φ = "
            f"{worth.phi.estimate:.2f} ({spread}){bounds}."
        )
    return found


def search_sentences(analysis: Analysis) -> list[str]:
    """At how many places the search chose the lowest or highest of its learning rates."""
    rates = analysis.suite.protocol.search.rates
    if len(rates) < 3:
        return []
    chosen = {
        (record.cell.task, record.cell.family, record.cell.size): record.measures["rate"]
        for record in analysis.records
        if record.done
    }
    ends = [place for place, rate in chosen.items() if rate in (min(rates), max(rates))]
    if not ends:
        return []
    families = ", ".join(dict.fromkeys(FAMILIES[family].words for _, family, _ in ends))
    return [
        f"At {len(ends)} of {len(chosen)} places (family, task and size) the search chose the "
        f"lowest or highest of its learning rates, so that others may do better there: {families}."
    ]


def losses(analysis: Analysis) -> list[str]:
    """Where looping lost by the whole interval: at a task and size, and in number of parameters."""
    found = []
    for v in analysis.versus:
        if v.better is not False:
            continue
        assert v.interval.low is not None and v.interval.high is not None
        if analysis.errors:
            much = (
                f"has {v.interval.estimate:.3g} times our error (95 % interval "
                f"{v.interval.low:.3g} to {v.interval.high:.3g})"
            )
        else:
            much = (
                f"returns {-v.interval.estimate:.4g} more (95 % interval "
                f"{-v.interval.high:.4g} to {-v.interval.low:.4g})"
            )
        found.append(f"{v.task}, {v.size:,} parameters: the {FAMILIES[v.family].words} {much}.")
    for scoped in analysis.ratios:
        if word(scoped.ratio) == MORE:
            scope = "all tasks" if scoped.scope == "all" else scoped.scope
            found.append(
                f"{scope}: at equal {'error' if analysis.errors else 'return'} ours needs "
                f"more parameters than the {_item(scoped)}."
            )
    return found
