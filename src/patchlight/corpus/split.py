"""Train, validation and held-out documents, with no text on two sides."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from patchlight.errors import InputError
from patchlight.records import Document


@dataclass(frozen=True)
class Split:
    """The documents of each side, each in the order in which they came."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    held_out: tuple[Document, ...]


def split(documents: Iterable[Document], *, validation: float = 0.2, held_out: float = 0.0, seed: int) -> Split:
    """The documents divided by document at random, the same way each time for the same `seed`.

    `validation` and `held_out` are shares of the documents, rounded to whole documents and reached as nearly
    as duplicates allow: documents of the same text (case, spacing and Unicode form aside) stay on one side.
    Raises InputError for shares that leave nothing to train on, and for a side that would stay empty.
    """
    _check_shares(validation, held_out)
    kept = list(documents)
    groups: dict[str, list[int]] = {}
    for index, document in enumerate(kept):
        groups.setdefault(_normalised(document.text), []).append(index)
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    sides: dict[str, set[int]] = {"held_out": set(), "validation": set()}
    for side, share in (("held_out", held_out), ("validation", validation)):
        wanted = round(share * len(kept))
        while shuffled and len(sides[side]) < wanted:
            sides[side].update(shuffled.pop())
        if share and not sides[side]:
            raise _too_few(len(kept))
    if not shuffled:
        raise _too_few(len(kept))
    taken = sides["held_out"] | sides["validation"]
    return Split(
        train=tuple(document for index, document in enumerate(kept) if index not in taken),
        validation=tuple(kept[index] for index in sorted(sides["validation"])),
        held_out=tuple(kept[index] for index in sorted(sides["held_out"])),
    )


def recorded(documents: Sequence[Document]) -> Split | None:
    """The split that the documents bring with them, None where they bring none.

    Raises InputError `split-mixed` where only some of them do, and `split-too-few` for an empty side.
    """
    if not any(document.part for document in documents):
        return None
    sides: dict[str, list[Document]] = {"train": [], "validation": [], "held_out": []}
    for document in documents:
        if document.part not in sides:
            what = f"document {document.id} names no side ({document.part or 'none'}), others do"
            raise InputError("split-mixed", what, fix="prepare all files together: patchlight corpus prepare")
        sides[document.part].append(document)
    if not (sides["train"] and sides["validation"]):
        raise _too_few(len(documents))
    return Split(tuple(sides["train"]), tuple(sides["validation"]), tuple(sides["held_out"]))


def sides_of(families: Sequence[int], *, validation: float, held_out: float, seed: int) -> list[str]:
    """The side of each document (`train`, `validation`, `held_out`); a family is on one side as a whole.

    Families come in random order and are taken where there is still room for them, so that a large one never
    overfills a side: the shares are reached as nearly as the families allow. Raises InputError as `split` does.
    """
    _check_shares(validation, held_out)
    members: dict[int, list[int]] = {}
    for index, family in enumerate(families):
        members.setdefault(family, []).append(index)
    shuffled = list(members.values())
    random.Random(seed).shuffle(shuffled)
    sides = ["train"] * len(families)
    room = {"held_out": round(held_out * len(families)), "validation": round(validation * len(families))}
    for group in shuffled:
        side = next((side for side, left in room.items() if 0 < len(group) <= left), None)
        if side is not None:
            room[side] -= len(group)
            for index in group:
                sides[index] = side
    wanted = {"train", *(["validation"] if validation else []), *(["held_out"] if held_out else [])}
    if not wanted <= set(sides):
        raise _too_few(len(families))
    return sides


def _check_shares(validation: float, held_out: float) -> None:
    if min(validation, held_out) < 0 or validation + held_out >= 1:
        raise InputError(
            "split-shares",
            f"shares of {validation:g} and {held_out:g} leave nothing to train on",
            fix="give shares from 0 whose sum is below 1",
        )


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _too_few(count: int) -> InputError:
    return InputError(
        "split-too-few", f"{count} documents are too few, or too alike, for this split", fix="add documents"
    )
