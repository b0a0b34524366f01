"""What training changed in what a model knows: the same facts asked before and after, one by one."""

from __future__ import annotations

from collections.abc import Sequence

from patchlight.judge.shares import exact_share, paired
from patchlight.report.contents import Learnt
from patchlight.study.results import CheckpointResults

Known = dict[tuple[str, str], bool]  # by kind and fact


def learnt(first: CheckpointResults, result: CheckpointResults) -> tuple[Learnt, ...]:
    """By kind: the taught facts that a trained model answers in two wordings, beside the model before, where asked.

    `first` is the study's first checkpoint. Only facts asked of both models are compared.
    """
    if result.checkpoint.training is None:
        return ()
    after = _known(result)
    before = _known(first) if first.checkpoint.training is None else {}
    both = [key for key in after if not before or key in before]
    return tuple(_of_kind(kind, before, after, both) for kind in dict.fromkeys(kind for kind, _ in both))


def _known(result: CheckpointResults) -> Known:
    return {(each["kind"], each["fact"]): each["known"] for each in result.asked.meta["facts"] if each["taught"]}


def _of_kind(kind: str, before: Known, after: Known, both: Sequence[tuple[str, str]]) -> Learnt:
    asked = [key for key in both if key[0] == kind]
    now = [after[key] for key in asked]
    share = exact_share(sum(now), len(now))
    if not before:
        return Learnt(kind, share)
    then = [before[key] for key in asked]
    changed = paired(then, now)
    return Learnt(kind, share, exact_share(sum(then), len(then)), changed.gained, changed.lost, changed.p)
