"""What would be seen if nothing were there: donors for null maps, to be given to `sweep(..., donors=...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from patchlight.records import Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Donors:
    """One donor prompt a pair, None where the pairs offer none."""

    prompts: tuple[str | None, ...]

    @property
    def missing(self) -> int:
        """How many pairs have no donor."""
        return self.prompts.count(None)


def donor_from_another_fact(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, seed: int) -> Donors:
    """For each pair the clean prompt of another fact of the same relation and template, as long in tokens.

    The other fact's answer is neither the correct nor the wrong one, so a patch from it can remove what the
    recipient says but cannot bring the answer: what a real donor gives beyond this is particular to the fact. It is
    of the same half as the pair, so that the halves stay independent.
    """
    return _choose(
        pairs,
        tokenizer,
        seed,
        lambda pair, other: (pair.relation, pair.template, pair.half) == (other.relation, other.template, other.half),
    )


def donor_from_permuted_pairs(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, seed: int) -> Donors:
    """For each pair the clean prompt of a fact of another relation, as long in tokens: unrelated."""
    return _choose(
        pairs, tokenizer, seed, lambda pair, other: pair.relation != other.relation and pair.half == other.half
    )


def _choose(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    admissible: Callable[[Pair, Pair], bool],
) -> Donors:
    """One admissible donor a pair, all donors being used about equally often."""
    lengths = [len(tokenizer(pair.clean)["input_ids"]) for pair in pairs]
    order = np.random.default_rng(seed).permutation(len(pairs))
    used = [0] * len(pairs)
    prompts: list[str | None] = []
    for pair, length in zip(pairs, lengths, strict=True):
        donors = [
            int(index)
            for index in order
            if lengths[index] == length
            and pairs[index].fact != pair.fact
            and _right(pairs[index]).isdisjoint((*_right(pair), pair.wrong, *pair.also_wrong))
            and pairs[index].clean not in (pair.clean, pair.corrupted)
            and admissible(pair, pairs[index])
        ]
        chosen = min(donors, key=used.__getitem__, default=None)
        if chosen is not None:
            used[chosen] += 1
        prompts.append(None if chosen is None else pairs[chosen].clean)
    return Donors(tuple(prompts))


def _right(pair: Pair) -> set[str]:
    return {pair.correct, *pair.also_correct}
