"""A study's exchanges between the model before and after fine-tuning: units, their results, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from patchlight import load_model, patch_weights
from patchlight.errors import InputError
from patchlight.model.anatomy import Model
from patchlight.packs.read import read_pack
from patchlight.run.units import Ran, Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.across import across_units, transfers, with_across
from patchlight.study.questions import questions_of
from patchlight.study.results import Checkpoint, CheckpointResults
from patchlight.study.spec import Study, read_study

Stored = Callable[[Unit], Artifact]
TRAINED = """\
corpus: {compose: {documents: 50}}
training: {short: {learning_rate: 0.001, max_epochs: 1}}
"""


def with_section(study: Path, section: str, trained: str = TRAINED) -> Path:
    """The study's file with an `across` section and a training."""
    text = study.read_text(encoding="utf-8").replace("sweep: {", f"sweep: {{across: {section}, ")
    study.write_text(text + trained, encoding="utf-8")
    return study


@pytest.fixture
def before_and_after(study: Path, stored: Stored) -> tuple[Study, Checkpoint, CheckpointResults]:
    """The taught model as if it were fine-tuned, its questions, and as the model before it one with a spoilt MLP."""
    read = read_study(with_section(study, "{components: [mlp_out]}"))
    taught = stages.loaded_checkpoint(read)
    assert taught is not None
    tuned = Checkpoint("short", "tuned", taught.read)

    def spoilt() -> Model:
        model = load_model(study.parent / "model")
        hf = copy.deepcopy(model.hf)
        torch.manual_seed(0)
        weight = hf.transformer.h[1].mlp.c_proj.weight
        weight.data.add_(torch.randn_like(weight) * weight.std() * 2)
        return Model(hf, model.tokenizer, "before")

    asked = stored(stages.questions_unit(read, read_pack(read.pack_source), tuned))
    result = CheckpointResults(tuned, asked, None, tuple(questions_of(asked)), (), 0, 0)
    return read, Checkpoint("base", "before", spoilt), result


@pytest.fixture
def run(stored: Stored) -> Callable[[list[Unit]], Ran]:
    return lambda units: Ran({unit.hash: stored(unit) for unit in units}, (), len(units))


def test_what_fine_tuning_changed_is_found_in_the_weights_and_by_activations(before_and_after, run) -> None:
    study, base, result = before_and_after
    found = with_across(study, base, result, run)
    pairs = [question.pair for question in result.questions]
    assert [(each.what, each.direction, each.control is not None) for each in found.across] == [
        ("weights", "denoise", True),
        ("mlp_out", "denoise", True),
        ("weights", "noise", True),
        ("mlp_out", "noise", False),
    ]
    directly = patch_weights(base.model, result.checkpoint.model, pairs)
    np.testing.assert_array_equal(found.across[0].values, directly.values)
    for kind in ("definitional", "associative"):
        weights, mlp, *_ = transfers(study, found, kind)
        assert weights.effect is not None
        assert mlp.effect is not None
        assert weights.pairs + weights.left_out == sum(pair.kind == kind for pair in pairs)
        at = weights.sites.index("weights.blocks.1.mlp")
        assert weights.effect.estimate[at] == pytest.approx(1)
        assert weights.control.estimate[at] < 0.6
        others = [i for i in range(len(weights.sites)) if i != at and not weights.structural[i]]
        assert not weights.effect.estimate[others].any()
        assert np.nanargmax(mlp.effect.estimate) in [i for i, site in enumerate(mlp.sites) if "blocks.1" in site]


def test_units_go_by_what_they_depend_on(before_and_after) -> None:
    study, base, result = before_and_after
    pairs = [question.pair for question in result.questions]

    def hashes(tuned: Checkpoint, before: Checkpoint) -> set[str]:
        return {unit.hash for _, unit in across_units(study, before, tuned, pairs)}

    first = hashes(result.checkpoint, base)
    assert len(first) == 7
    assert hashes(result.checkpoint, base) == first
    assert not first & hashes(Checkpoint("short", "other", base.read), base)
    assert not first & hashes(result.checkpoint, Checkpoint("base", "other", base.read))


def test_the_model_before_has_no_exchange_with_itself(before_and_after, run) -> None:
    study, base, result = before_and_after
    alone = CheckpointResults(base, result.asked, None, result.questions, (), 0, 0)
    assert with_across(study, base, alone, run).across == ()


@pytest.mark.parametrize(
    ("section", "trained", "said"),
    [
        ("{}", "", "before and after"),
        ("{}", TRAINED + "before: false\n", "before and after"),
        ("{metric: kl}", TRAINED, "metric"),
        ("{}, metric: kl", TRAINED, "another metric"),
    ],
)
def test_a_section_that_cannot_be_followed_is_refused(section: str, trained: str, said: str, study: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_study(with_section(study, section, trained))
