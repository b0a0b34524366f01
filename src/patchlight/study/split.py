"""The split of a study's facts, written down before the first sweep: which are for discovery, which are held out."""

from __future__ import annotations

from collections.abc import Sequence

from patchlight.pairs.halves import HALVES
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Result
from patchlight.study.results import Checkpoint, Question
from patchlight.study.spec import Study


def split_unit(study: Study, checkpoint: Checkpoint, questions: Sequence[Question]) -> Unit:
    """The discovery and confirmation facts of each kind (meta `split`), under the hash of the study."""
    pairs = [question.pair for question in questions]
    split = {
        kind: {half: sorted({p.fact for p in pairs if (p.kind, p.half) == (kind, half)}) for half in HALVES}
        for kind in dict.fromkeys(pair.kind for pair in pairs)
    }

    def work(_: Workplace) -> Result:
        return Result({"split": split, "study": study.spec.digest})

    inputs = {"study": study.spec.digest, "model": checkpoint.digest, "split": split}
    return Unit("split", f"{checkpoint.key}: split of the facts", inputs, work, ("study/split.py",))
