"""The null maps of a study: which there are, what gives in each, and what each is a share of."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from patchlight.judge.evidence import FACTS_IN_EACH_HALF
from patchlight.records import NULLS, Null, Pair
from patchlight.study.results import Checkpoint, SweepResult
from patchlight.study.spec import Study

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from patchlight.model.anatomy import Model
    from patchlight.trace.random_donor import RandomDonor

# A donor that cannot bring the answer breaks a noising run as the usual donor does, so it says nothing about damage.
IN_DIRECTION: Mapping[str, tuple[Null, ...]] = {"denoise": NULLS, "noise": ("random-donor", "random-init", "before")}
BY_CHANCE = ("another-fact", "permuted", "random-donor")  # whose donors the study's seed decides


def null_models(study: Study, checkpoints: Sequence[Checkpoint]) -> Mapping[str, Checkpoint]:
    """The models without the knowledge: one at random init for all checkpoints, and the one before fine-tuning."""
    first = checkpoints[0]
    models = {"random-init": _at_random_init(study, first)} if "random-init" in study.spec.controls else {}
    return models | ({"before": first} if first.training is None else {})


def applying(checkpoint: Checkpoint, models: Collection[str]) -> tuple[Null, ...]:
    """The null maps that a checkpoint can have: none before its fine-tuning for a model that was not fine-tuned."""
    fine_tuned = checkpoint.training is not None and "before" in models
    return NULLS if fine_tuned else tuple(name for name in NULLS if name != "before")


def asked(study: Study, checkpoint: Checkpoint, models: Collection[str], direction: str) -> list[Null]:
    """The null maps beside the maps of a checkpoint in a direction, those of them that the study wants."""
    wanted = set(study.spec.controls) & set(IN_DIRECTION[direction])
    return [name for name in applying(checkpoint, models) if name in wanted]


def donors_of(
    null: str, pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, seed: int
) -> RandomDonor | tuple[str | None, ...] | None:
    """What gives in a null map, for each pair a prompt or None; None alone for a null of another model."""
    from patchlight.trace.random_donor import RandomDonor
    from patchlight.verify.controls import donor_from_another_fact, donor_from_permuted_pairs

    if null == "random-donor":
        return RandomDonor(seed)
    choose = {"another-fact": donor_from_another_fact, "permuted": donor_from_permuted_pairs}.get(null)
    return None if choose is None else choose(pairs, tokenizer, seed).prompts


def _at_random_init(study: Study, like: Checkpoint) -> Checkpoint:
    from patchlight.study.stages import seed_of

    seed = seed_of(study, "random init")

    def read() -> Model:
        from patchlight.model.load import random_init

        return random_init(like.model, seed)

    digest = hashlib.sha256(f"random init of {like.digest} with seed {seed}".encode()).hexdigest()
    return Checkpoint("random init", digest, read)


@dataclass(frozen=True)
class NullMap:
    """Effects of a null map, and the positive gaps that they are shares of: sum of effects over sum of gaps."""

    effects: Float[np.ndarray, "pair layer role"]
    gaps: Float[np.ndarray, " pair"]


def pooled(effects: Float[np.ndarray, "pair ..."], gaps: Float[np.ndarray, " pair"]) -> NullMap:
    """Effects as shares of gaps of either sign: sum of sign(gap) x effect over sum of |gap|.

    A model that knows nothing has small gaps of random sign. A share of each would be noise, and the mean of the
    effects is zero whatever the wiring gives back; turned towards their own gaps they add up. A pair without a gap
    has no share.
    """
    has = np.isfinite(gaps) & (gaps != 0)
    turned = effects * np.where(has, np.sign(gaps), np.nan).reshape(-1, *[1] * (effects.ndim - 1))
    return NullMap(turned, np.where(has, np.abs(gaps), 1.0))


def absent(
    applying: Sequence[str],
    wanted: Collection[str],
    sweeps: Sequence[SweepResult],
    facts: Sequence[str],
    confirmation: Collection[str],
) -> dict[str, str]:
    """Why a null map that applies was not made, or has donors for too few facts of a half to be tested against.

    The reasons are `off`, `no-donor` and `few-donors`.
    """
    found = {name: "off" for name in applying if name not in wanted}
    held_out = np.array([fact in confirmation for fact in facts])
    for sweep in sweeps:
        if sweep.null and sweep.direction == "denoise":
            given = np.isfinite(sweep.values).any(axis=(1, 2))
            halves = [len(set(np.array(facts)[given & half])) for half in (held_out, ~held_out)]
            if min(halves) < FACTS_IN_EACH_HALF:
                found[sweep.null] = "few-donors" if given.any() else "no-donor"
    return {name: found[name] for name in NULLS if name in found}
