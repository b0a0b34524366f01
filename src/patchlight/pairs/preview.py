"""A pack as one model meets it: each question, its corrupted twin token by token, and whether the model answers it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from patchlight.packs.masking import mask
from patchlight.packs.problem import Language
from patchlight.packs.spec import Pack
from patchlight.pairs.align import AlignmentRefused, align
from patchlight.pairs.alternatives import Unscored
from patchlight.pairs.answers import counts_sets
from patchlight.pairs.build import Refusal, build_pairs
from patchlight.pairs.screen import Screened, known_facts, screen
from patchlight.pairs.twins import Swap, build_twins
from patchlight.pairs.whole import whole_scores
from patchlight.records import Pair

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

ANSWERED = "answered"


@dataclass(frozen=True)
class Token:
    """One position of a question: what it adds to the clean and to the corrupted prompt, and its role."""

    clean: str
    corrupted: str
    role: str
    differs: bool


@dataclass(frozen=True)
class Question:
    """A question of a pack, as a model meets it.

    `outcome` is `answered`, or why the question cannot be measured. The metric after both prompts is NaN where it was
    not measured. `per_character` and `gain`: the whole right answer against the whole wrong one after the clean
    prompt, in nats per character, and in nats that the question adds. `correct` and `wrong` are the best answers;
    `also_correct`, `also_wrong` and `distractors` those that metrics over sets count with them.
    """

    fact: str
    kind: str
    relation: str
    template: str
    outcome: str
    clean_prompt: str
    corrupted_prompt: str
    correct: str
    wrong: str
    tokens: tuple[Token, ...]
    clean: float = math.nan
    corrupted: float = math.nan
    per_character: float = math.nan
    gain: float = math.nan
    detail: str = ""
    also_correct: tuple[str, ...] = ()
    also_wrong: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Control:
    """A question about which nothing of the field can be known, and how the model answers it.

    `answers` from the likeliest on, each with what the question adds to it in nats.
    """

    name: str
    sort: str
    prompt: str
    answers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Preview:
    """A pack as a model meets it; `known` are the facts answered in two wordings or more.

    `unscored`: further answers that questions do without, with the reason.
    """

    pack: str
    model: str
    language: Language
    metric: str
    questions: tuple[Question, ...]
    controls: tuple[Control, ...]
    known: tuple[str, ...]
    facts: int
    unscored: tuple[Unscored, ...] = ()

    @property
    def answered(self) -> int:
        """How many questions the model answers."""
        return sum(question.outcome == ANSWERED for question in self.questions)


def preview(
    pack: Pack,
    model: Model,
    *,
    language: Language = "en",
    metric: str = "logsumexp_diff",
    swap: Swap | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Preview:
    """Every question of the pack in that language with its twin: another subject, or another `swap`.

    The default metric counts every right and every wrong answer of the pack.
    """
    if swap:
        built = build_twins(pack, model.tokenizer, swap, language=language)
    else:
        built = build_pairs(pack, model.tokenizer, seed=seed, language=language)
    screened = screen(model, built.pairs, metrics=[metric], on_progress=on_progress)
    relations = {fact.id: fact.relation for fact in pack.file.facts}
    questions = [*_measured(model, screened), *(_refused(each, relations[each.fact]) for each in built.refused)]
    order = {fact.id: number for number, fact in enumerate(pack.file.facts)}
    questions.sort(key=lambda each: (order[each.fact], each.template))
    known = sorted(known_facts(screened) | known_facts(screened, taught=False), key=order.__getitem__)
    controls = (*_unrelated(pack, model, language), *_made_up(pack, model, language))
    facts = len(pack.facts(language))
    unscored = tuple(built.unscored) if counts_sets([metric]) else ()
    return Preview(pack.id, model.name, language, metric, tuple(questions), controls, tuple(known), facts, unscored)


def masked(pack: Pack, content: Preview) -> dict[str, Any]:
    """The preview as plain values for a file that leaves the house.

    Confidential terms are masked; the tokens of a question that mentions one are left out.
    """
    plain: dict[str, Any] = asdict(content)
    for question in plain["questions"]:
        hidden = any(mask(pack, question[name]) != question[name] for name in ("clean_prompt", "corrupted_prompt"))
        question["tokens"] = [] if hidden else question["tokens"]
    told: dict[str, Any] = _each_text(plain, lambda text: mask(pack, text))
    return told


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _each_text(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def _measured(model: Model, screened: Screened) -> list[Question]:
    rows = [(pair, ANSWERED, float(clean), float(corrupted)) for pair, clean, corrupted in _kept(screened)]
    rows += [(each.pair, each.reason, each.clean, each.corrupted) for each in screened.left_out]
    scored = [pair for pair, _, clean, _ in rows if math.isfinite(clean)]
    asked = [(pair.clean, answer) for pair in scored for answer in (pair.correct, pair.wrong)]
    scores = whole_scores(model, asked)
    readings = {
        pair: (right.per_character - wrong.per_character, right.gain - wrong.gain)
        for pair, right, wrong in zip(scored, scores[::2], scores[1::2], strict=True)
    }
    return [_question(model, *row, *readings.get(row[0], (math.nan, math.nan))) for row in rows]


def _kept(screened: Screened) -> Sequence[tuple[Pair, float, float]]:
    return list(zip(screened.kept, screened.clean, screened.corrupted, strict=True))


def _question(
    model: Model, pair: Pair, outcome: str, clean: float, corrupted: float, per_character: float, gain: float
) -> Question:
    return Question(
        fact=pair.fact,
        kind=pair.kind,
        relation=pair.relation,
        template=pair.template,
        outcome=outcome,
        clean_prompt=pair.clean,
        corrupted_prompt=pair.corrupted,
        correct=pair.correct.strip(),
        wrong=pair.wrong.strip(),
        tokens=_tokens(model, pair),
        clean=clean,
        corrupted=corrupted,
        per_character=per_character,
        gain=gain,
        also_correct=tuple(map(str.strip, pair.also_correct)),
        also_wrong=tuple(map(str.strip, pair.also_wrong)),
        distractors=tuple(map(str.strip, pair.distractors)),
    )


def _tokens(model: Model, pair: Pair) -> tuple[Token, ...]:
    try:
        found = align(model.tokenizer, pair)
    except AlignmentRefused:
        return ()
    words = zip(found.words, found.corrupted_words, found.roles, strict=True)
    return tuple(Token(*word, differs=position in found.differing) for position, word in enumerate(words))


def _refused(refusal: Refusal, relation: str) -> Question:
    kind, empty = "", ""
    return Question(
        refusal.fact, kind, relation, refusal.template, refusal.reason, empty, empty, empty, empty, (),
        detail=refusal.detail,
    )  # fmt: skip


def _unrelated(pack: Pack, model: Model, language: Language) -> list[Control]:
    said = [each for each in pack.file.controls.unrelated if language in each.prompt]
    return [
        _control(
            model, each.id, "unrelated", each.prompt[language], [each.answer[language], each.wrong[language]], language
        )
        for each in said
    ]


def _made_up(pack: Pack, model: Model, language: Language) -> list[Control]:
    """How the model answers for subjects that do not exist, in the first template of their relation."""
    facts, controls = pack.facts(language), []
    for each in pack.file.controls.made_up:
        asked = [fact for fact in facts if fact.relation == each.relation]
        templates = pack.templates(each.relation, language)
        if language in each.subject and asked and templates:
            name = each.subject[language]
            prompt = templates[0].fill(name, asked[0].condition)
            answers = list(dict.fromkeys(fact.answers[0] for fact in asked))
            controls.append(_control(model, name, "made_up", prompt, answers, language))
    return controls


def _control(model: Model, name: str, sort: str, prompt: str, answers: Sequence[str], language: Language) -> Control:
    space = " " if language == "en" else ""
    scores = whole_scores(model, [(prompt, space + answer) for answer in answers])
    ranked = sorted(zip(answers, scores, strict=True), key=lambda pair: -pair[1].raw)
    return Control(name, sort, prompt, tuple((answer, score.gain) for answer, score in ranked))
