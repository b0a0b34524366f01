"""The split of a study's facts, written down before the first sweep: which are for discovery, which are held out."""

from __future__ import annotations

from collections.abc import Sequence

from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Result
from patchlight.study.results import Checkpoint, Question
from patchlight.study.spec import Study
from patchlight.study.stages import facts_split


def split_unit(study: Study, checkpoint: Checkpoint, questions: Sequence[Question]) -> Unit:
    """The discovery and confirmation facts of each kind (meta `split`), under the hash of the study."""
    kinds = dict.fromkeys(question.pair.kind for question in questions)
    split = {}
    for kind in kinds:
        halves = facts_split(study, kind, [question.pair.fact for question in questions if question.pair.kind == kind])
        split[kind] = dict(zip(("discovery", "confirmation"), map(sorted, halves), strict=True))

    def work(_: Workplace) -> Result:
        return Result({"split": split, "study": study.spec.digest})

    inputs = {"study": study.spec.digest, "model": checkpoint.digest, "split": split}
    return Unit("split", f"{checkpoint.key}: split of the facts", inputs, work, ("study/split.py",))
