"""The published protocol as units of work: each question on each model, and models with random weights beside it.

What is made of their results is in `study.replay`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from patchlight.errors import InputError
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Result
from patchlight.study.results import Checkpoint
from patchlight.study.spec import ModelChoice, PublishedQuestion, Study
from patchlight.study.stages import SWEEPS, loaded_checkpoint, run_on, seed_of

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model
    from patchlight.records import TokenPair

PUBLISHED = (*SWEEPS, "study/published.py")
FIRST, MATRICES, HEAD = "first-feed-forward", "matrices", "output-head"


@dataclass(frozen=True)
class Replayed:
    """What one unit is asked: a question on a model as it is, or all questions with random weights from a seed."""

    model: str
    question: int | None = None
    seed: int | None = None


def published_models(study: Study, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The models that the protocol is replayed on: the study's own, and those that its section names beside them."""
    if study.spec.published is None:
        return []
    return [*checkpoints, *(_further(study, source) for source in study.spec.published.models)]


def _further(study: Study, source: str) -> Checkpoint:
    choice = ModelChoice(load=source, dtype=study.spec.model.dtype, device=study.spec.model.device)
    loaded = loaded_checkpoint(Study(study.spec.model_copy(update={"model": choice}), study.file))
    if loaded is None:
        raise ValueError("a model with a source is always loaded")
    return dataclasses.replace(loaded, key=Path(source).name)


def published_units(study: Study, checkpoint: Checkpoint) -> list[tuple[Replayed, Unit]]:
    """The units of one model: a question each, then a model with random weights each."""
    spec = study.spec.published
    if spec is None:
        return []
    asked = [Replayed(checkpoint.key, question=number) for number in range(len(spec.questions))]
    seeds = range(spec.random_models)
    asked += [Replayed(checkpoint.key, seed=seed_of(study, "published", str(number))) for number in seeds]
    return [(each, _unit(study, checkpoint, spec.questions, each)) for each in asked]


def _unit(study: Study, checkpoint: Checkpoint, questions: Sequence[PublishedQuestion], asked: Replayed) -> Unit:
    mine = questions if asked.question is None else questions[asked.question : asked.question + 1]

    def work(workplace: Workplace) -> Result:
        if asked.seed is None:
            return _measured(checkpoint.model, mine[0], workplace)
        return _at_random(checkpoint.model, mine, asked.seed)

    inputs: Mapping[str, Any] = {
        "model": checkpoint.digest,
        **run_on(study),
        "questions": [each.model_dump() for each in mine],
        "seed": asked.seed,
    }
    what = f"question {asked.question + 1}" if asked.question is not None else f"random weights, seed {asked.seed}"
    return Unit("published", f"{checkpoint.key}: published protocol, {what}", inputs, work, PUBLISHED)


def _measured(model: Model, question: PublishedQuestion, workplace: Workplace) -> Result:
    """Table `modules`: every module of the protocol with its metric; those whose result is kept, with the controls."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from patchlight.trace import modules

    pair, shown = _token_pair(model, question), _shown(model)
    kept = [name for _, _, name in shown]
    names = list(dict.fromkeys([*kept, *modules.projections(model)]))
    effects = modules.patch_modules(model, pair, names, workplace.on_progress)
    alone = dict(zip(kept, modules.tokens_alone(model, pair, kept), strict=True))
    rows = pd.DataFrame(
        {
            "module": names,
            "prints": [str(model.hf.get_submodule(name)) for name in names],
            "patched": effects.patched,
            "tokens_alone": [alone.get(name, np.nan) for name in names],
            "full_cut": [modules.is_full_cut(model, name, pair) for name in names],
        }
    )
    reached = {kind.__name__: modules.of_type(model, kind) for kind in (nn.Linear, Conv1D)}
    meta = {
        "clean": effects.clean,
        "corrupted": effects.corrupted,
        "corrupted_prompt": _fitting(model, question),
        "shown": shown,
        "reached": {kind: [len(found), len(modules.by_printed_name(model, found))] for kind, found in reached.items()},
    }
    return Result(meta, {"modules": rows})


def _at_random(model: Model, questions: Sequence[PublishedQuestion], seed: int) -> Result:
    """Table `modules`: the kept modules of every question, on a model of this form that was taught nothing."""
    from patchlight.model.load import random_init
    from patchlight.trace.modules import patch_modules

    untaught = random_init(model, seed)
    kept = [name for _, _, name in _shown(untaught)]
    tables = []
    for number, question in enumerate(questions):
        effects = patch_modules(untaught, _token_pair(untaught, question), kept)
        gap = effects.clean - effects.corrupted
        rows = {"module": kept, "change": effects.patched - effects.corrupted}
        tables.append(pd.DataFrame(rows).assign(question=number, kind=question.kind, gap=gap))
    return Result(parts={"modules": pd.concat(tables, ignore_index=True)})


def _shown(model: Model) -> list[tuple[str, str, str]]:
    """The rows of the table: what the row is, what the module prints as, and the module that leaves its result."""
    from patchlight.trace import modules

    first, head = modules.first_feed_forward(model), modules.output_head(model)
    by_key = modules.by_printed_name(model, modules.projections(model))
    rows = [(MATRICES, key, names[-1]) for key, names in by_key.items()]
    ends = [(role, str(model.hf.get_submodule(name)), name) for role, name in ((FIRST, first), (HEAD, head))]
    return [ends[0], *rows, ends[1]]


def _token_pair(model: Model, question: PublishedQuestion) -> TokenPair:
    from patchlight.pairs.align import encode
    from patchlight.records import TokenPair

    def ids(text: str) -> tuple[int, ...]:
        return encode(model.tokenizer, text)

    texts = (question.clean, _fitting(model, question), question.scored, question.against)
    clean, corrupted, scored, against = map(ids, texts)
    return TokenPair(clean, corrupted, scored, against, question.fact, question.kind)


def _fitting(model: Model, question: PublishedQuestion) -> str:
    """The first corrupted prompt that is as long as the clean one for this model's tokenizer."""
    from patchlight.pairs.align import encode

    length, *others = (len(encode(model.tokenizer, text)) for text in (question.clean, *question.corrupted))
    if length not in others:
        what = f"the clean prompt has {length} tokens, the corrupted ones have {', '.join(map(str, others))}"
        fix = "add a wording of the corrupted prompt to `published.questions` that is as long for this model"
        raise InputError("study-published-lengths", what, where=f"{model.name}: {question.fact}", fix=fix)
    return question.corrupted[others.index(length)]
