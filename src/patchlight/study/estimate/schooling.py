"""A training counted before it runs: rows of tokens, optimiser steps at least and at most, and the time of a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from patchlight.run.units import Unit
from patchlight.study.estimate.pace import Late, Trial, deadline
from patchlight.study.estimate.plan import Planned
from patchlight.study.spec import Study
from patchlight.study.stages import seed_of, training_settings

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model
    from patchlight.model.settings import TrainingSettings

STEPS = 12  # of a trial
LETTERS = 8  # a token has fewer, so that a trial has texts enough


@dataclass(frozen=True)
class Schooling:
    """One training configuration: its unit, its rows, and its optimiser steps, at least and at most.

    The least are those of a training that stops as early as its patience allows. `scored` are the tokens of the
    validation texts that each evaluation reads; one comes every `every` steps.
    """

    key: str
    unit: Unit
    settings: TrainingSettings
    rows: int
    steps: tuple[int, int]
    every: int
    scored: int

    @property
    def planned(self) -> Planned:
        """Its unit in the plan of the study."""
        return Planned("training", f"training {self.key}", self.unit, self.steps, "steps")

    @property
    def tokens(self) -> int:
        """The tokens of one optimiser step."""
        return self.settings.batch_size * self.settings.accumulation * self.settings.block_length


def schooling(
    study: Study, key: str, unit: Unit, model: Model, train: Sequence[str], validation: Sequence[str]
) -> Schooling:
    """A configuration counted on the rows that it will train on. Raises InputError as `finetune` does for texts."""
    from patchlight.model.rows import comparable_rows, rows_of

    settings = training_settings(study.spec.training[key])
    layout = settings.block_length, settings.text
    rows = len(rows_of(train, model, *layout, padding_in_loss=settings.padding_in_loss))
    held_back = rows_of(validation, model, *layout, padding_in_loss=settings.padding_in_loss)
    scored = held_back.tokens.numel() + comparable_rows(validation, model).tokens.numel()
    an_epoch = math.ceil(math.ceil(rows / settings.batch_size) / settings.accumulation)
    every = settings.evaluate_every or an_epoch
    most = an_epoch * settings.max_epochs
    most = min(most, settings.max_steps or most)
    return Schooling(key, unit, settings, rows, (min(most, every * (settings.patience + 1)), most), every, scored)


def schooling_trial(
    study: Study, each: Schooling, model: Model, train: Sequence[str], validation: Sequence[str], folder: Path
) -> Trial:
    """Some steps of the training itself and a scored row; the seconds of one step with its part of the evaluations."""
    from patchlight.model.finetune import finetune  # here, for reading the trainer's libraries takes seconds

    def trial(seconds: float) -> float | None:
        times: list[float] = []

        def on_step(step: int, _total: int, _loss: float) -> None:
            times.append(perf_counter())
            if step >= STEPS:
                raise Late

        settings = dataclasses.replace(each.settings, evaluate_every=0)
        some = _some(train, each.tokens * (STEPS + 1) * LETTERS)
        place = folder / f"training {len(list(folder.iterdir()))}"
        try:
            with deadline(seconds):
                finetune(
                    model, some, validation[:1], settings, place, seed=seed_of(study, "training"), on_progress=on_step
                )
        except Late:
            pass
        if len(times) < 2:
            return None
        # The first step sets up what the others use.
        step = (times[-1] - times[0]) / (len(times) - 1)
        return step + _scoring(model, validation, settings) * each.scored / each.every

    return trial


def _some(texts: Sequence[str], letters: int) -> list[str]:
    """The first texts, as many as hold so many letters."""
    found, length = [], 0
    for text in texts:
        found.append(text)
        length += len(text)
        if length >= letters:
            break
    return found


def _scoring(model: Model, validation: Sequence[str], settings: TrainingSettings) -> float:
    """Seconds to score one token of the validation texts."""
    from patchlight.model.rows import comparable_rows, mean_loss

    rows = comparable_rows(_some(validation, model.context or 512), model)
    start = perf_counter()
    mean_loss(model.hf, rows, settings.batch_size)
    return (perf_counter() - start) / rows.tokens.numel()
