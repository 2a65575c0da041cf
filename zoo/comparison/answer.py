"""The answer of a comparison in plain sentences, each made from the report's numbers alone."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from zoo.base.errors import many
from zoo.base.terminal import byte_size
from zoo.comparison.known import beside, chosen_before
from zoo.comparison.ladder.rungs import geometric
from zoo.comparison.ledger import Ledger
from zoo.comparison.result import UNLEARNED, Standing
from zoo.comparison.scaling import Law, overtakes
from zoo.comparison.words import figure, joined, quantity
from zoo.config.tree import key_of

NEARLY_EQUAL = 1.06
"""Sizes whose ratio is at most this are called equal."""
NEAR_BEST = 0.05
"""A setting is near the best where it is within this share of it, or within the margin that matters."""


def answer(ledger: Ledger) -> list[str]:
    """What separates the contestants, what they cost, who was fragile, what this cannot say, and what would.

    It is worked out once for a ledger: the terminal and the page say the same.
    """
    if ledger.said is None:
        ledger.said = _sentences(ledger)
    return ledger.said


def _sentences(ledger: Ledger) -> list[str]:
    if not any(standing.rows for standing in ledger.contestants()):
        return []
    if ledger.is_sweep:
        return [_best_setting(ledger, task) for task in ledger.tasks if any(s.rows for s in ledger.on(task))]
    parts = [*(_task(ledger, task) for task in _asked(ledger))] if not ledger.laws else []
    parts += [_laws(ledger)]
    for each in ledger.ladders:
        parts += [each.backtest(), each.trends(), each.learning_rates(), each.optima(), each.stability()]
    parts += [_claims(ledger), _ladder(ledger), _equal(ledger), _state(ledger), _fragile(ledger), _known(ledger)]
    parts += [_limits(ledger), _noise(ledger), _next(ledger)]
    return [said for part in parts if (said := " ".join(part))]


def _laws(ledger: Ledger) -> Iterator[str]:
    """How each contestant's loss falls with size and tokens, who is ahead at equal compute, and what is not certain."""
    fitted = [(each, each.law) for each in ledger.laws if each.law is not None]
    if not fitted:
        return
    exponents = "; ".join(
        f"{each.contestant} {_exponent(law, 'parameters')} and {_exponent(law, 'tokens')}" for each, law in fitted
    )
    yield f"Exponents by which the loss falls with parameters, and with tokens, towards its floor: {exponents}."
    pairs = [
        f"{one.contestant} beside {other.contestant}: {overtakes(one, other)}"
        for (one, _), (other, _) in combinations(fitted, 2)
    ]
    if pairs:
        yield f"At the best size for each compute within what was run, {'; '.join(pairs)}."
    doubted = [f"{each.contestant} ({law.doubts[0]})" for each, law in fitted if law.doubts]
    if doubted:
        yield f"No loss may be extrapolated of {joined(doubted)}."


def _exponent(law: Law, of: str) -> str:
    low, high = law.intervals[f"{of}_exponent"]
    return f"{getattr(law, f'{of}_exponent'):.2f} ({low:.2f} to {high:.2f})"


def _asked(ledger: Ledger) -> list[str]:
    """The tasks that the answer speaks of one by one: not the rungs of a ladder."""
    rungs = {task for each in ledger.ladders for task in (*(step.task for step in each.steps), *each.asides)}
    return [task for task in ledger.tasks if task not in rungs]


def _best_setting(ledger: Ledger, task: str) -> str:
    """Of a sweep, the setting that validation picks."""
    best = ledger.ranked(task)[0]
    why = ledger.cannot_decide(task)
    return (
        f"On {task}, {best.contestant} has the best validation score; its median test "
        f"{best.unit} over {_runs(len(best.scores()))} is {figure(best.score(), '.4g')}"
        f"{f'. That decides nothing: {why}' if why else ''}."
    )


def _task(ledger: Ledger, task: str) -> Iterator[str]:
    """Who is ahead on a task, who is told apart from the baseline, and who of those that may be first is cheapest."""
    entered = [s for s in ledger.ranked(task) if s.scores()]
    lost = [s.contestant for s in entered if s.score() is None]
    if not entered or len(lost) == len(entered):
        yield f"On {task}, every run failed." if entered else f"On {task}, nothing was run yet."
        return
    if entered[0].bar is not None:
        yield f"On {task}, {_solved([s for s in entered if s.score()])}."
    else:
        best = next(s for s in entered if s.score())
        ranks = ledger.ranks(task).get(best.contestant)
        sure = f"; its rank is 1 to {ranks[1]}" if ranks and ranks[1] > 1 else ", ahead of everybody else"
        sure = "" if ledger.cannot_rank(task) else sure
        yield (
            f"On {task}, {best.contestant} has the best median {best.unit}, {figure(best.score(), '.4g')} of "
            f"{_runs(len(best.scores()))}{sure if len(entered) > 1 else ''}."
        )
    whole = [s.contestant for s in entered if not s.rows]
    half = [name for name in lost if name not in whole]
    if whole:
        yield f"Every run of {joined(whole)} failed."
    if half:
        yield f"At least half of the runs of {joined(half)} failed."
    untuned = [s.contestant for s in entered if s.rows and s.untuned()]
    if untuned:
        yield f"Every tuning run of {joined(untuned)} failed, so its reported setting was not chosen by any score."
    if ledger.baseline and len(entered) > 1:
        yield _told_apart(ledger, task, entered)
    if len(entered) > 1 and not ledger.cannot_decide(task) and not ledger.cannot_rank(task):
        yield from _cheapest(ledger, task, entered)


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


def _solved(entered: Sequence[Standing]) -> str:
    """Who solved a task in all runs, in some, and in none."""
    groups: dict[str, list[Standing]] = {"all": [], "some": [], "none": []}
    for standing in entered:
        count = standing.solved_count() or 0
        groups["all" if count == len(standing.scores()) else "some" if count else "none"].append(standing)
    parts = []
    for count in sorted({len(s.scores()) for s in groups["all"]}, reverse=True):
        alike = [s for s in groups["all"] if len(s.scores()) == count]
        share = f"{_runs(count)} ({alike[0].solved_share()} of all seeds would)"
        parts.append(f"{joined([s.contestant for s in alike])} solved it in all of {share}")
    for standing in groups["some"]:
        verb = "" if parts else "solved it "
        parts.append(f"{standing.contestant} {verb}in {standing.solved()}")
    if groups["none"]:
        best = groups["none"][0]
        shortcut = "" if best.shortcut is None else f"; what needs no learning scores {best.shortcut:.3g}"
        alone = len(groups["none"]) == len(entered)
        who = "nobody solved it" if alone else f"{joined([s.contestant for s in groups['none']])} in none"
        whose = "best median" if alone else "their best median" if len(groups["none"]) > 1 else "its median"
        parts.append(f"{who} ({whose} {figure(best.score(), '.3g')}{shortcut})")
    return ", ".join(parts)


def _told_apart(ledger: Ledger, task: str, entered: Sequence[Standing]) -> str:
    """Who is better or worse than the baseline, with figure and strength."""
    base = next((s for s in entered if s.contestant == ledger.baseline), None)
    judged = [s for s in entered if s.verdict is not None]
    apart = [s for s in judged if s.verdict and s.verdict.apart]
    if not judged or base is None:
        return f"{ledger.baseline}, with which all others are compared, has no result."
    if not apart:
        why = ledger.cannot_decide(task)
        return f"Nobody is told apart from {ledger.baseline}{': ' + why if why else ''}."
    alike: dict[tuple[str, str, tuple[str, ...], bool], list[Standing]] = {}
    for standing in apart:
        if standing.verdict:
            p_value, doubts = f"p = {standing.verdict.p_value:.2g}", standing.verdict.doubts
            alike.setdefault((str(standing.verdict), p_value, doubts, bool(_apart_by(standing))), []).append(standing)
    parts = []
    for (verdict, p, doubts, _), group in alike.items():  # what is said of several is said once
        if len(group) == 1:
            strength = "; ".join([p, *doubts])
            parts.append(f"{group[0].contestant} is {verdict}{_apart_by(group[0], whole=True)} ({strength})")
        else:
            strength = "; ".join([f"{p} each", *doubts])
            group.sort(key=lambda s: -abs(s.difference.value) if _apart_by(s) and s.difference else 0.0)
            each = joined([f"{s.contestant}{_apart_by(s)}" for s in group])
            unit = f" in {group[0].unit}" if group[0].unit and any(map(_apart_by, group)) else ""
            parts.append(f"these are {verdict} ({strength}): {each}{unit}")
    paired = ", by the median difference of runs of one seed" if any(map(_apart_by, apart)) else ""
    unlearned = [s.contestant for s in judged if s.verdict and s.verdict.word == UNLEARNED]
    if unlearned:
        parts.append(f"{joined([*unlearned, base.contestant])} did not learn it")
    small = [s.contestant for s in judged if s.verdict and s.verdict.word == "no difference that matters"]
    if small:
        parts.append(f"{joined(small)} differ{'s' * (len(small) == 1)} from it by less than matters")
    rest = len(judged) - len(apart) - len(unlearned) - len(small)
    others = f"; the other{f' {rest} are' if rest > 1 else ' is'} not told apart from it" if rest else ""
    return f"Beside {ledger.baseline}{paired}, {'; '.join(parts)}{others}."


def _apart_by(standing: Standing, whole: bool = False) -> str:
    """By how much, by seed as in the tables; with its unit if whole.

    Nothing where counts of solved runs say it, or where the median says the opposite of what failed runs decided.
    """
    value = standing.difference.value if standing.difference else math.nan
    ahead = standing.sign * value > 0
    if not math.isfinite(value) or standing.solved_count() or not standing.verdict:
        return ""
    if ahead != (standing.verdict.word == "better"):
        return ""
    return f" by {abs(value):.3g}" + (f" in {standing.unit}" if whole and standing.unit else "")


def _few(names: Sequence[str]) -> str:
    """The names, or of many how many there are."""
    return joined(names) if len(names) <= FEW_FINDINGS else str(len(names))


def _cheapest(ledger: Ledger, task: str, entered: Sequence[Standing]) -> Iterator[str]:
    """Of those that learned the task and may be first, who trains with the fewest FLOPs."""
    ranks = ledger.ranks(task)
    learned = [s for s in entered if s.learned() and s.cost("training_flops")]
    first = [s for s in learned if ranks.get(s.contestant, (9, 9))[0] == 1]
    if len(first) > 1:
        costs = {s.contestant: s.cost("training_flops") or 0.0 for s in first}
        least, most = min(costs, key=costs.__getitem__), max(costs, key=costs.__getitem__)
        if costs[most] > 1.05 * costs[least]:
            yield (
                f"{_few([s.contestant for s in first])} may be first; of these, {least} trains with the fewest FLOPs "
                f"({quantity(costs[least])}; {most} takes {costs[most] / costs[least]:.3g} times as many)."
            )


CLAIMS = {
    "holds": ("holds", "hold"),
    "contradicted": ("is contradicted", "are contradicted"),
    "not separated": ("is not separated", "are not separated"),
    "no difference that matters": ("makes no difference that matters", "make no difference that matters"),
    UNLEARNED: ("has no side that learned the task", "have no side that learned the task"),
    "not tested": ("was not tested", "were not tested"),
}
"""What one claim does and what several do, by the outcome of a finding."""


def _claims(ledger: Ledger) -> Iterator[str]:
    """What came of the claims that the comparison was made to test."""
    counts = Counter(each.outcome for each in ledger.findings)
    if counts:
        told = joined([f"{n} {words[n > 1]}" for outcome, words in CLAIMS.items() if (n := counts[outcome])])
        yield f"Of {many(len(ledger.findings), 'claim')} to be tested, counted on each task, {told}."
    for each in ledger.findings:
        if each.outcome == "contradicted":
            yield f"Contradicted on {each.task}: {each.says} ({each.better} over {each.than})."


def _ladder(ledger: Ledger) -> Iterator[str]:
    """Of one task at several settings: up to which of them each contestant solves it in every run."""
    if len(ledger.tasks) < 3 or ledger.ladders or len({s.about.get("task") for s in ledger.contestants()}) > 1:
        return
    solved: dict[str, str] = {}
    for task in ledger.tasks:
        for standing in ledger.on(task):
            solved.setdefault(standing.contestant, "none")
            if standing.state() == "solved":
                solved[standing.contestant] = task
    if set(solved.values()) != {"none"}:
        told = joined([f"{contestant} {task}" for contestant, task in solved.items()])
        yield f"The last setting that each solves in every run: {told}."


BUDGETS = {
    "tokens": "tokens",
    "flops": "FLOPs of training",
    "seconds": "seconds of training, as forecast from the time of a step",
}
"""Budgets of training, in words."""


def _equal(ledger: Ledger) -> Iterator[str]:
    """Which budget of training all have; whether sizes are equal, and why not."""
    rows = [row for s in ledger.contestants() for row in s.rows if row.get("training_flops")]  # some train nothing
    for name, words in BUDGETS.items() if not ledger.of_sizes else ():
        targets = {(row.get("budget") or {}).get(name, {}).get("target") for row in rows}
        if len(targets) == 1 and (target := targets.pop()) is not None:
            yield f"Every run that trains has the same budget: {quantity(target)} {words}."
    span = sizes(ledger)
    if not span:
        return
    ratio, low, high, task = span
    if ratio <= NEARLY_EQUAL:
        yield f"Contestants have equal numbers of active parameters on each task, within {ratio - 1:.1%}."
    else:
        met = any("parameters" in name for s in ledger.on(task) for row in s.rows for name in row.get("budget") or {})
        own = "this comparison has compare.equal=none, or its own widths"
        why = "their widths allow nothing closer" if met else own
        yield f"Sizes are not equal: on {task}, active parameters span {quantity(low)} to {quantity(high)}; {why}."


def sizes(ledger: Ledger) -> tuple[float, float, float, str] | None:
    """The largest ratio of active parameters on a task, the least and the most of them, and the task."""
    spans = []
    for task in ledger.tasks if not ledger.of_sizes else ():
        active_parameters = [size for s in ledger.on(task) if (size := s.cost("active_parameters"))]
        if len(active_parameters) > 1:
            spans.append(
                (max(active_parameters) / min(active_parameters), min(active_parameters), max(active_parameters), task)
            )
    return max(spans, default=None)


def titled(ledger: Ledger) -> str:
    """The title of contestants by tasks, which says whether they are of equal size."""
    span = sizes(ledger)
    if not span:
        return "Contestants by tasks"
    equal = f"equal active parameters, within {span[0] - 1:.1%}" if span[0] <= NEARLY_EQUAL else "unequal sizes"
    return f"Contestants by tasks, at {equal}"


def _state(ledger: Ledger) -> Iterator[str]:
    """What decoding must keep in memory, by length of context."""
    kept: dict[str, dict[str, float]] = {}
    first, differs = "", False  # equal numbers of parameters ask for other widths on other tasks
    for standing in ledger.contestants():
        sizes = standing.rows[0].get("state_bytes_by_length") if standing.rows else None
        if sizes:
            first = first or standing.task
            differs = kept.setdefault(standing.contestant, sizes) != sizes or differs
    lengths = [n for n in ("1024", "8192", "65536") if kept and all(n in sizes for sizes in kept.values())]
    if len(lengths) < 2 or len(kept) < 2:
        return
    on = f" on {first}" if differs else ""
    fixed = [name for name, sizes in kept.items() if sizes[lengths[0]] == sizes[lengths[-1]]]
    grows = [name for name in kept if name not in fixed]
    if grows:
        name = max(grows, key=lambda each: kept[each][lengths[-1]])
        sizes = joined([byte_size(kept[name][n]) for n in lengths])
        yield (
            f"When generating{on}, {name} keeps {sizes} after {joined(lengths)} tokens, and each new token reads all "
            f"of it. FLOPs here count that reading at the length of training."
        )
    if fixed:
        each = joined([f"{name} {byte_size(kept[name][lengths[0]])}" for name in fixed])
        yield f"State of the same size at any length{on}: {each}."


def _fragile(ledger: Ledger) -> Iterator[str]:
    """Whose score falls off beside the best setting: an answer that only tuning reaches."""
    fragile: dict[str, list[str]] = {}
    for standing in ledger.contestants():
        near, tried = near_best(standing)
        if tried >= 3 and near == 1 and standing.state() in ("solved", "partly", "above"):
            fragile.setdefault(standing.task, []).append(standing.contestant)
    if fragile:
        within = f"within {100 * NEAR_BEST:.0f} % of the best validation score"
        each = "; ".join(f"on {task}, {joined(names)}" for task, names in fragile.items())
        yield f"Sensitive to tuning, as no other setting tried comes {within}: {each}."


def near_best(standing: Standing) -> tuple[int, int]:
    """How many settings are near the best on validation data, and how many were tried; 0 of 0 where none was."""
    known = [mean for _, mean in standing.tuned()]
    if not known:
        return 0, len(standing.tried)
    best = max((mean for _, mean in standing.finalists() or standing.tuned()), key=lambda mean: standing.sign * mean)
    limit = max(standing.margin, NEAR_BEST * abs(best))
    return sum(abs(value - best) <= limit for value in known), len(standing.tried)


AGREE = {
    "agrees": "agree",
    "agrees, provisionally": "provisionally agree",
    "agrees in part": "agree in part",
    "agrees in part, provisionally": "provisionally agree in part",
}
FEW_FINDINGS = 3
"""So many are told in words; the page lists them all."""
EXTENDED = 4
"""How many values a grid may grow by at each end, in the command that is offered where it ended at an edge."""
DISAGREE = {
    outcome.replace("agree", "disagree"): words.replace("agree", "disagree") for outcome, words in AGREE.items()
}
"""What runs do, in the plural, by the outcome of a finding."""


def _known(ledger: Ledger) -> Iterator[str]:
    """How it stands beside what is known."""
    findings = beside(ledger)
    counts = Counter(each.outcome for each in findings)
    told = [f"{agree} with {counts[outcome]}" for outcome, agree in AGREE.items() if counts[outcome]]
    told += [f"leave {counts['cannot tell']} open"] if counts["cannot tell"] else []
    if told:
        applies = "applies" if len(findings) == 1 else "apply"
        yield f"{many(len(findings), 'published finding')} {applies} here: these runs {joined(told)}."
        listed = [
            f"{each.says} ({each.outcome} on {joined(list(dict.fromkeys(pair[0] for pair in each.pairs)))})"
            for each in findings
            if each.outcome not in DISAGREE
        ]
        if len(listed) <= FEW_FINDINGS:
            said = "; ".join(listed)
            yield f"{said[:1].upper()}{said[1:]}."
    for each in findings:
        if each.outcome in DISAGREE:
            yield f"These runs {DISAGREE[each.outcome]} with this one: {each.says} ({each.source})."


def _limits(ledger: Ledger) -> Iterator[str]:
    """What this comparison cannot say, and the command that would."""
    asides = {task for ladder in ledger.ladders for task in ladder.asides}
    rows = [row for s in ledger.contestants() if s.of not in asides for row in s.rows]
    largest, longest = max(row["parameters"] for row in rows), max(row["tokens"] for row in rows)
    yield (
        f"Nothing larger was tested than {quantity(largest)} parameters and {quantity(longest)} tokens of training "
        f"a run."
    )
    if ledger.of_sizes or not ledger.comparisons():
        return
    chosen = [f"{what} on {task} ({joined(whose)})" for what, task, whose in chosen_before(ledger)]
    if chosen:
        yield f"Defaults of these presets were chosen on tasks compared here: {joined(chosen)}."
    still = {task: [s.contestant for s, _ in ledger.unconverged(task)] for task in ledger.tasks}
    each = [
        f"on {task} {joined(names)}, after {quantity(_tokens(ledger, task))} tokens"
        for task, names in still.items()
        if names and not ledger.cannot_decide(task)
    ]
    if each:
        there = "there" if len(each) == 1 else "on these tasks"
        yield (
            f"Still improving when training ended: {'; '.join(each)}. So scores {there} say how fast contestants "
            "learn, not how far they get."
        )


def _noise(ledger: Ledger) -> Iterator[str]:
    """How far the baseline is from itself under other seeds."""
    parts = []
    for task in ledger.tasks:
        control = ledger.control(task)
        base = next((s for s in ledger.on(task) if s.contestant == ledger.baseline), None)
        if control and base and control.rows and base.rows:
            if not math.isfinite(control.middle() - base.middle()):
                continue
            solved = f" ({control.solved()} and {base.solved()} solved)" if base.solved() else ""
            parts.append(f"{abs(control.middle() - base.middle()):.3g} on {task}{solved}")
    if parts:
        yield f"Under other seeds the baseline differs from itself by {joined(parts)}."


def _next(ledger: Ledger) -> Iterator[str]:
    """The one command that would say more."""
    if ledger.laws or not ledger.comparisons() or not ledger.command.startswith("zoo compare"):
        return
    if any(each.missing for each in ledger.ladders):
        yield f"To finish its larger rungs: {ledger.command}"
        return
    if ledger.ladders:
        sizes = [int(step.parameters) for step in ledger.ladders[0].steps]
        further = geometric(sizes[-1], sizes[-1] / sizes[-2], 2)[1]
        words = [f"compare.ladder.sizes=[{','.join(map(str, [*sizes, further]))}]"]
        yield f"To add a rung: {_with(ledger.command, words)}"
        return
    hard = [task for task in ledger.tasks if not ledger.cannot_decide(task)]
    if "compare.extend" not in ledger.command and any(_at_an_edge(ledger, task) for task in hard):
        yield f"To let the tuning grids grow: {_with(ledger.command, [f'compare.extend={EXTENDED}'])}"
        return
    falling = [task for task in hard if ledger.unconverged(task)]
    if falling:
        task = falling[0]
        steps = max(int(row["steps"]) for s in ledger.on(task) for row in s.rows)
        only = next(s.of for s in ledger.on(task))
        words = [f"compare.only=[{only}]", f"steps={4 * steps}", f"compare.name={ledger.name}_longer"]
        yield f"To see who leads on {task} after longer training: {_with(ledger.command, words)}"
    elif any(s.verdict and s.verdict.word == "not separated" for task in hard for s in ledger.on(task)):
        most = max(len(s.scores()) for s in ledger.contestants())
        seeds = ",".join(map(str, range(2 * most)))
        words = [f"compare.seeds=[{seeds}]", "compare.more_seeds=[]"]
        yield f"To tell more of them apart: {_with(ledger.command, words if ledger.looks_twice else words[:1])}"


def _at_an_edge(ledger: Ledger, task: str) -> bool:
    """Whether a verdict is provisional since the best setting of the one behind is the smallest or largest tried."""
    base = next((s for s in ledger.on(task) if s.contestant == ledger.baseline), None)
    apart = [s for s in ledger.on(task) if s.verdict and s.verdict.apart]
    return any((base if s.verdict and s.verdict.word == "better" else s).edge for s in apart if base)


def _with(command: str, words: Sequence[str]) -> str:
    """A command with these words in place of those of the same keys."""
    keys = {key_of(word) for word in words}
    kept = [word for word in shlex.split(command) if key_of(word) not in keys]
    return shlex.join([*kept, *words])


def _tokens(ledger: Ledger, task: str) -> float:
    return max((float(row["tokens"]) for s in ledger.on(task) for row in s.rows), default=0.0)
