"""What may keep a study from its answer, as far as it can be told before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from patchlight.judge.contrast import FEWEST_MATCHED, NEEDED
from patchlight.judge.evidence import FACTS_IN_EACH_HALF
from patchlight.judge.thresholds import THRESHOLDS
from patchlight.pairs.halves import HALVES
from patchlight.records import NULLS
from patchlight.report.estimate import Machine, Risk, Span
from patchlight.study.estimate.survey import Part, Survey
from patchlight.study.results import Question

GIB = 2**30
SHOWN = 5  # reasons of refused questions


def risks_of(survey: Survey, parts: Sequence[Part], memory: Span, disk: Span, machine: Machine) -> tuple[Risk, ...]:
    """The risks, those that stop a run first."""
    found = [*_of_machine(memory, disk, machine)]
    kinds = _kinds(survey)
    for part in parts:
        questions = _by_kind(part.questions)
        found += [risk for kind in kinds for risk in _of_facts(kind, questions.get(kind, []))]
    found += [*_of_questions(survey), *_of_kinds(survey, kinds, parts), *_of_controls(survey, parts)]
    if not THRESHOLDS.calibrated:
        found.append(Risk("thresholds-not-calibrated", {}))
    if not all(part.certain for part in parts):
        found.append(Risk("answers-unknown", {}))
    return tuple({str(risk): risk for risk in found}.values())


def _of_machine(memory: Span, disk: Span, machine: Machine) -> Iterator[Risk]:
    for name, need, has in (("memory", memory, machine.memory), ("disk", disk, machine.disk)):
        numbers = {"low": need.low / GIB, "high": need.high / GIB, "free": has / GIB}
        if need.high > has:
            yield Risk(f"{name}-{'short' if need.low > has else 'tight'}", numbers)


def _of_facts(kind: str, questions: Sequence[Question]) -> Iterator[Risk]:
    """Too few facts even where the model answers all of them."""
    if not questions:
        yield Risk("no-question", {}, kind)
        return
    halves = {half: {each.pair.fact for each in questions if each.pair.half == half} for half in HALVES}
    sizes = {half: len(facts) for half, facts in halves.items()}
    if min(sizes.values()) < FACTS_IN_EACH_HALF:
        yield Risk("too-few-facts", {**sizes, "needed": FACTS_IN_EACH_HALF}, kind)
    elif sum(sizes.values()) < THRESHOLDS.facts_for_coverage:
        yield Risk(
            "few-facts-for-intervals", {"facts": sum(sizes.values()), "needed": THRESHOLDS.facts_for_coverage}, kind
        )


def _of_questions(survey: Survey) -> Iterator[Risk]:
    """The questions of the pack that cannot be put to this tokenizer, by reason."""
    refused = survey.most.refused
    total = survey.most.asked + sum(refused.values())
    for reason, count in list(refused.items())[:SHOWN]:
        yield Risk("refused", {"count": count, "total": total, "reason": reason})


def _of_kinds(survey: Survey, kinds: Sequence[str], parts: Sequence[Part]) -> Iterator[Risk]:
    """Kinds that cannot be compared."""
    if len(kinds) < 2:
        yield Risk("one-kind", {})
        return
    if NEEDED not in survey.study.spec.controls:
        yield Risk("kinds-no-reference", {})
    for part in parts:
        questions = _by_kind(part.questions)
        for kind in kinds:
            facts = len({each.pair.fact for each in questions.get(kind, [])})
            if facts < FEWEST_MATCHED:
                yield Risk("kinds-too-few", {"facts": facts, "needed": FEWEST_MATCHED}, kind)


def _of_controls(survey: Survey, parts: Sequence[Part]) -> Iterator[Risk]:
    spec = survey.study.spec
    apply = [name for name in NULLS if name != "before" or _fine_tuned(survey, parts)]
    missing = [name for name in apply if name not in spec.controls]
    if missing:
        yield Risk("nulls-missing", {"nulls": ", ".join(missing)})
    if spec.sweep.sets is None:
        yield Risk("sets-not-measured", {})


def _fine_tuned(survey: Survey, parts: Sequence[Part]) -> bool:
    return len(parts) > 1 and survey.base is not None and survey.study.spec.before


def _kinds(survey: Survey) -> list[str]:
    """The kinds of the relations that the study asks about."""
    wanted = survey.study.spec.pairs.relations
    relations = survey.pack.file.relations
    return list(dict.fromkeys(each.kind for each in relations if not wanted or each.id in wanted))


def _by_kind(questions: Sequence[Question]) -> Mapping[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.pair.kind, []).append(question)
    return found
