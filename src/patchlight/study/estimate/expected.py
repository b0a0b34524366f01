"""The questions that a study could ask of a model, told from its tokenizer alone, before any model has answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from patchlight.model.anatomy import Model
from patchlight.packs.check import FEWEST_TEMPLATES
from patchlight.packs.spec import Pack
from patchlight.pairs.align import Alignment, AlignmentRefused, align, refuse_leak
from patchlight.pairs.answers import METRICS, Answers, refuse_unreadable
from patchlight.records import Pair
from patchlight.study.questions import built_pairs, chosen_pairs
from patchlight.study.results import Question
from patchlight.study.spec import Study

TOO_LONG = "prompt longer than the context"


@dataclass(frozen=True)
class Expected:
    """`questions` take part where the model answers everything right; `asked` counts the pairs put to it.

    `refused` counts the questions that cannot be asked, by reason.
    """

    questions: tuple[Question, ...]
    asked: int
    refused: Mapping[str, int]


def expected(study: Study, pack: Pack, model: Model) -> Expected:
    """What `questions.ask` will put to a model, and what it could keep at most; the model is not run."""
    made = built_pairs(study, pack, model)
    metrics = study.spec.sweep.metrics
    refused = Counter(refusal.reason for refusal in made.refused)
    admitted: dict[Pair, Alignment] = {}
    for pair in made.pairs:
        try:
            admitted[pair] = _admitted(model, pair, (*metrics, METRICS[metrics[0]].knows))
        except AlignmentRefused as refusal:
            refused[refusal.reason] += 1
    wordings: dict[str, set[str]] = defaultdict(set)
    for pair in admitted:
        wordings[pair.fact].add(pair.template)
    taught = [pair for pair in admitted if pair.taught and len(wordings[pair.fact]) >= FEWEST_TEMPLATES]
    swept = chosen_pairs(taught, study.spec.pairs.max_per_kind, study.spec.seed)
    return Expected(
        tuple(_question(pair, alignment) for pair, alignment in admitted.items() if pair in swept),
        len(admitted),
        dict(refused.most_common()),
    )


def _admitted(model: Model, pair: Pair, metrics: Sequence[str]) -> Alignment:
    """As `pairs.screen` admits a pair."""
    alignment = align(model.tokenizer, pair)
    refuse_leak(model.tokenizer, pair, alignment)
    refuse_unreadable(pair, alignment, metrics)
    after = max(tokens.shape[1] for tokens in Answers.of([alignment], metrics).continuations)
    if model.context is not None and len(alignment.clean_ids) + after > model.context:
        raise AlignmentRefused(TOO_LONG, "the model reads less", pair=pair, fix="shorten the prompt")
    return alignment


def _question(pair: Pair, alignment: Alignment) -> Question:
    """The pair as if the model had answered it, with a gap of one."""
    read = {name: tuple(getattr(alignment, name)) for name in ("words", "corrupted_words", "roles", "differing")}
    return Question(pair, 0.5, -0.5, **read, answer_tokens=len(alignment.correct_ids))
