"""What a study consists of as far as it can be told now: its checkpoints, their questions, and every unit to come."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from patchlight.packs.spec import Pack
from patchlight.run.units import Unit, Workplace
from patchlight.store.files import FileStore
from patchlight.store.ledger import Ledger
from patchlight.store.results import Artifact, Result, keep, opened
from patchlight.study import stages
from patchlight.study.estimate.expected import Expected, expected
from patchlight.study.estimate.outline import outline
from patchlight.study.estimate.plan import Planned, Subject, checkpoint_plan, other
from patchlight.study.estimate.schooling import Schooling, schooling
from patchlight.study.mentions import mentions_unit
from patchlight.study.nulls import null_models
from patchlight.study.published import published_models, published_units
from patchlight.study.questions import questions_of
from patchlight.study.results import Checkpoint, Question, SweepResult
from patchlight.study.spec import Study
from patchlight.study.walk import joined

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model


@dataclass(frozen=True)
class Part:
    """One checkpoint: what could be asked of it, what takes part, and the units behind that.

    `certain` says that the model's answers are known; elsewhere `questions` are those of a model that answers
    everything right, and none of `planned` may come.
    """

    checkpoint: Checkpoint
    expected: Expected
    questions: tuple[Question, ...]
    certain: bool
    planned: tuple[Planned, ...]


@dataclass
class Survey:
    """One study looked at before it runs. Nothing is written but into `scratch`, a folder of its own.

    `done` are the seconds of the units that the workspace has, by hash; `taken` is what a unit took that was made
    here because the rest cannot be counted without it.
    """

    study: Study
    pack: Pack
    ledger: Ledger | None
    scratch: Path
    taken: dict[str, float] = field(default_factory=dict)
    made: dict[str, Artifact] = field(default_factory=dict)

    @cached_property
    def done(self) -> Mapping[str, float]:
        """Wall seconds by unit hash."""
        if self.ledger is None:
            return {}
        rows = (row for study in self.ledger.studies() for row in self.ledger.units(study.hash))
        return {row.hash: row.seconds or 0.0 for row in rows if row.state == "done"}

    @cached_property
    def files(self) -> FileStore:
        """Where what is made here is kept as the store would."""
        return FileStore(self.scratch)

    def kept(self, unit: Unit) -> Artifact | None:
        """The result of a unit that is done, or was made here."""
        if unit.hash in self.made:
            return self.made[unit.hash]
        return self.ledger.result(unit.hash) if self.ledger is not None and unit.hash in self.done else None

    def make(self, unit: Unit, on_progress: Callable[[int, int], None] = lambda *_: None) -> Artifact:
        """The result of a unit, made here where it is not done."""
        found = self.kept(unit)
        if found is None:
            start = perf_counter()
            manifest = keep(self.files, unit.work(Workplace(self.scratch, on_progress)))
            self.taken[unit.hash] = perf_counter() - start
            found = self.made[unit.hash] = opened(self.files, manifest, hashlib.sha256(manifest.encode()).hexdigest())
        return found

    @cached_property
    def texts(self) -> Artifact | None:
        """The training texts; None for a study without training."""
        return self.make(stages.texts_unit(self.study, self.pack)) if self.study.spec.corpus else None

    def written(self, part: str) -> list[str]:
        """The training texts of a part, `train` or `validation`."""
        if self.texts is None:
            return []
        table = self.texts.table("documents")
        found: list[str] = table.text[table.part == part].tolist()
        return found

    @cached_property
    def model(self) -> Model:
        """The form of the model under study."""
        return outline(self.study, self.written("train"))

    @cached_property
    def base(self) -> Checkpoint | None:
        """The model that is loaded."""
        return stages.loaded_checkpoint(self.study)

    @cached_property
    def runnable(self) -> Checkpoint:
        """A model of the right form that can be run: the loaded one, or the new one before its training."""
        return self.base or Checkpoint("new", "", lambda: self.model)

    def read(self) -> Model:
        """The model that can be run, in memory from now on."""
        return self.runnable.model

    @cached_property
    def schoolings(self) -> tuple[Schooling, ...]:
        """The trainings, counted."""
        if self.texts is None:
            return ()
        texts = self.written("train"), self.written("validation")
        return tuple(
            schooling(self.study, key, stages.training_unit(self.study, key, self.texts, self.base), self.model, *texts)
            for key in self.study.spec.training
        )

    @cached_property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The models under study; one that is not trained yet is stood in for by the one before."""
        trained = tuple(self._trained(each) for each in self.schoolings)
        return (self.base, *trained) if self.base and (self.study.spec.before or not trained) else trained

    def _trained(self, training: Schooling) -> Checkpoint:
        found = self.kept(training.unit)
        if found is not None:
            return stages.trained_checkpoint(self.study, training.key, found)
        nothing = opened(self.files, *_nothing(self.files))
        return Checkpoint(training.key, f"to be trained: {training.unit.hash}", lambda: self.runnable.model, nothing)

    def is_there(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is the model itself and none that stands in for it."""
        return not checkpoint.digest.startswith("to be trained: ")

    def asking(self, checkpoint: Checkpoint) -> Unit:
        """The unit that asks a checkpoint its questions."""
        return stages.questions_unit(self.study, self.pack, checkpoint)

    def parts(self) -> list[Part]:
        """Every checkpoint with what is known of it at this moment."""
        models = null_models(self.study, self.checkpoints)
        return [self._part(checkpoint, models) for checkpoint in self.checkpoints]

    def _part(self, checkpoint: Checkpoint, models: Mapping[str, Checkpoint]) -> Part:
        asked = self.kept(self.asking(checkpoint)) if self.is_there(checkpoint) else None
        questions = tuple(questions_of(asked)) if asked else self.most.questions
        sweeps = self._sweeps(checkpoint, questions, models) if asked else None
        subject = Subject(self.study, checkpoint, questions, models, self.model, sweeps)
        return Part(checkpoint, self.most, questions, asked is not None, tuple(checkpoint_plan(subject, self.base)))

    def _sweeps(
        self, checkpoint: Checkpoint, questions: Sequence[Question], models: Mapping[str, Checkpoint]
    ) -> Sequence[SweepResult] | None:
        """The sweeps of a checkpoint; None until all of them are done."""
        units = stages.sweep_units(self.study, checkpoint, questions, models)
        if not units or any(unit.hash not in self.done for _, unit in units):
            return None
        artifacts = {unit.hash: artifact for _, unit in units if (artifact := self.kept(unit)) is not None}
        return joined(units, artifacts, len(questions))

    @cached_property
    def most(self) -> Expected:
        """What could be asked of a model with this tokenizer."""
        return expected(self.study, self.pack, self.model)

    def before(self) -> list[Planned]:
        """The units that do not hang on what a model answers: texts, trainings, questions."""
        found = []
        if self.texts is not None:
            found.append(other("texts", stages.texts_unit(self.study, self.pack), 1))
            found += [each.planned for each in self.schoolings]
        for each in self.checkpoints:
            found.append(other("questions", self.asking(each), self.most.asked))
        return found

    def after(self) -> list[Planned]:
        """The units behind the sweeps: how often texts name the answers, a published protocol."""
        found = []
        if self.texts is not None:
            unit = mentions_unit(self.study, self.pack, self.texts)
            found.append(other("mentions", unit, len(self.written("train"))))
        if self.study.spec.published is not None:
            for checkpoint in published_models(self.study, self.checkpoints):
                for asked, unit in published_units(self.study, checkpoint):
                    family = "published random" if asked.question is None else "published"
                    found.append(other("published", unit, 1, family))
        return found


def _nothing(files: FileStore) -> tuple[str, str]:
    manifest = keep(files, Result())
    return manifest, hashlib.sha256(manifest.encode()).hexdigest()


def kinds_of(questions: Sequence[Question]) -> list[str]:
    """The kinds of knowledge that are asked about, in their order."""
    return list(dict.fromkeys(question.pair.kind for question in questions))
