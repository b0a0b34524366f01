"""The matrix of corruptions and metrics: its statistics against scipy, and on a model that was really taught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import patchlight as pl
from patchlight.errors import InputError
from patchlight.packs.read import read_pack
from patchlight.pairs.align import ROLES
from patchlight.pairs.build import build_pairs
from patchlight.records import Pair
from patchlight.trace.corruptions import Corruption
from patchlight.trace.sweep import sweep
from patchlight.verify.agreement import FactMap, Robustness, compare
from patchlight.verify.robustness import robustness

LAYERS = 6


def fact_map(change: np.ndarray, *, corruption: str = "token", metric: str = "logit_diff", facts=None) -> FactMap:
    """A map from `[fact, layer, role]` changes of facts whose gap is 1 and that have the first roles only."""
    n, layers, roles = change.shape
    whole, gap = np.zeros((n, layers, len(ROLES))), np.zeros((n, layers, len(ROLES)))
    whole[..., :roles], gap[..., :roles] = change, 1.0
    names = tuple(facts or [f"fact {i:02d}" for i in range(n)])
    settled = np.zeros(gap.shape[1:], dtype=bool)
    return FactMap(corruption, metric, names, whole, gap, settled, pairs=n, left_out={})


@pytest.fixture
def default() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (12, LAYERS, 4)) + np.linspace(0, 5, LAYERS * 4).reshape(LAYERS, 4)


def test_correlation_and_overlap_are_those_of_the_mean_maps(default):
    other = default + np.random.default_rng(1).normal(0, 3, default.shape)
    found = compare([fact_map(default), fact_map(other, metric="prob")], "resid_pre", "denoise", top=5).cells[1]
    maps = [each.mean(axis=0).ravel() for each in (default, other)]
    assert found.correlation.estimate == pytest.approx(spearmanr(*maps).statistic)
    top = [set(np.argsort(-each)[:5]) for each in maps]
    assert found.overlap.estimate == pytest.approx(len(top[0] & top[1]) / len(top[0] | top[1]))
    np.testing.assert_allclose(found.effect[:, :4].ravel(), maps[1])


def test_intervals_are_those_of_facts_drawn_again_together(default):
    other = default + np.random.default_rng(1).normal(0, 3, default.shape)
    found = compare([fact_map(default), fact_map(other)], "resid_pre", "denoise").cells[1].correlation
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(2000):
        facts = random.integers(0, 12, 12)
        drawn.append(spearmanr(default[facts].mean(0).ravel(), other[facts].mean(0).ravel()).statistic)
    np.testing.assert_allclose((found.low, found.high), np.quantile(drawn, [0.025, 0.975]), atol=0.03)
    assert found.n == 12


def test_the_same_map_agrees_and_the_reverse_disagrees(default):
    maps = [fact_map(default), fact_map(default, metric="same"), fact_map(-default, metric="reverse")]
    made = compare(maps, "resid_pre", "denoise", top=4)
    assert [cell.reading for cell in made.cells] == ["agrees", "agrees", "disagrees"]
    assert (made.cells[1].overlap.low, made.cells[1].correlation.high) == (1.0, pytest.approx(1.0))
    assert "other sites are named by token with reverse; the same by token with same" in made.conclusion


def test_the_strongest_site_of_each_choice_is_named_with_its_effect(default):
    raised = default.copy()
    raised[:, 2, 1] += 10
    made = compare([fact_map(default), fact_map(default, metric="same"), fact_map(raised)], "mlp_out", "denoise")
    table = made.to_frame()
    peaks = [np.unravel_index(default.mean(0).argmax(), (LAYERS, 4)), (2, 1)]
    names = [f"blocks.{layer}.mlp_out@{ROLES[role]}" for layer, role in peaks]
    assert list(table.strongest) == [names[0], names[0], names[1]]
    assert table.strongest_effect[2] == pytest.approx(raised[:, 2, 1].mean())
    assert f"{names[0]}, is the strongest under 2 of 3 choices" in made.conclusion


def test_a_list_that_does_not_agree_with_itself_cannot_be_contradicted(default):
    """Forty equal sites and ten facts of noise: other facts name other sites, and so does another choice."""
    noise = np.random.default_rng(7).normal(1, 0.1, (2, 10, 10, 4))
    made = compare([fact_map(noise[0]), fact_map(noise[1], metric="kl")], "resid_pre", "denoise", top=2)
    assert made.stability < 0.6
    assert made.cells[1].reading == "open"


def test_only_facts_that_both_have_are_compared_and_few_give_no_interval(default):
    few = fact_map(-default[:3], metric="few", facts=["fact 00", "fact 01", "another"])
    cell = compare([fact_map(default), few], "resid_pre", "denoise").cells[1]
    assert (cell.facts, cell.overlap.n, cell.reading) == (3, 2, "open")
    assert np.isnan([cell.overlap.low, cell.overlap.high]).all() and np.isfinite(cell.overlap.estimate)
    none = fact_map(default[:0], metric="none")
    cell = compare([fact_map(default), none], "resid_pre", "denoise").cells[1]
    assert (cell.overlap.n, cell.reading) == (0, "open") and np.isnan(cell.overlap.estimate)


def test_what_is_settled_by_construction_is_not_ranked(default):
    first, second = fact_map(default), fact_map(default, metric="other")
    first.settled[-1, 3] = True
    second.settled[0, 1] = True
    made = compare([first, second], "resid_pre", "denoise", top=3)
    assert not made.ranked[-1, 3] and not made.ranked[0, 1]
    assert made.ranked.sum() == LAYERS * 4 - 2
    first.settled[:] = True
    with pytest.raises(InputError, match="verify-nothing-to-rank"):
        compare([first, second], "resid_pre", "denoise")


@pytest.fixture(scope="module")
def model(taught: Path) -> pl.Model:
    return pl.load_model(taught / "model")


@pytest.fixture(scope="module")
def pairs(taught: Path, model: pl.Model) -> list[Pair]:
    pack = read_pack(taught / "pack.yaml")
    return pl.screen(model, build_pairs(pack, model.tokenizer, seed=0, templates_per_fact=2).pairs).kept


@pytest.fixture(scope="module")
def measured(model: pl.Model, pairs: list[Pair]) -> Robustness:
    return robustness(model, pairs, metrics=("logit_diff", "prob"))


def test_every_corruption_and_metric_has_its_cell_with_what_it_left_out(measured, pairs):
    assert [(cell.corruption, cell.metric) for cell in measured.cells] == [
        (corruption, metric)
        for corruption in ("token", "gaussian", "mean", "zero", "resample")
        for metric in ("logit_diff", "prob")
    ]
    for cell in measured.cells:
        assert cell.pairs + sum(cell.left_out.values()) == len(pairs)
    # Nothing before the subject can matter, and a subject of one token in the first layer's stream is all that differs.
    assert measured.ranked.any(axis=0).tolist() == [role != "before" for role in measured.roles]
    assert not measured.ranked[0, measured.roles.index("subject_last")]
    table = measured.to_frame()
    assert len(table) == 10
    assert table.reading[0] == "agrees" and table.overlap[0] == 1.0


def test_the_map_of_a_cell_is_the_mean_recovery_of_the_pairs_that_pass(measured, model, pairs):
    cell = next(cell for cell in measured.cells if (cell.corruption, cell.metric) == ("zero", "logit_diff"))
    effects = sweep(model, pairs, corruption="zero")
    passed = (effects.clean > 0) & (effects.corrupted < 0) & (effects.clean - effects.corrupted >= 0.5)
    assert cell.pairs == passed.sum() < len(pairs)
    roles, values = effects.by_role()
    column, gap = roles.index("last"), (effects.clean - effects.corrupted)[passed]
    moved = values[passed, :, column] - effects.corrupted[passed, None]
    expected = moved.mean(axis=0) / gap.mean()
    np.testing.assert_allclose(cell.effect[:, measured.roles.index("last")], expected)


def test_pairs_without_a_partner_are_counted(model, pairs):
    alone = [pair for pair in pairs if pair.relation == "colour"][:1]
    others = [pair for pair in pairs if pair.relation == "home"]
    asked = {"corruptions": ["resample"], "metrics": ("logit_diff",), "component": "head_out", "direction": "noise"}
    made = robustness(model, [*alone, *others], **asked)
    assert [cell.corruption for cell in made.cells] == ["token", "resample"]
    assert made.ranked.shape == (model.n_layers, model.n_heads, len(made.roles)) == made.cells[1].effect.shape
    assert made.cells[1].left_out["no other subject to resample from"] >= 1


def test_pairs_none_of_which_has_a_partner_leave_the_cell_empty(model, pairs):
    different = [next(pair for pair in pairs if pair.template == template) for template in {p.template for p in pairs}]
    made = robustness(model, sorted(different, key=repr), corruptions=["resample"], metrics=("logit_diff",))
    assert (made.cells[1].facts, made.cells[1].reading) == (0, "open")
    assert made.cells[1].left_out == {"no other subject to resample from": len(different)}


def test_settings_of_a_corruption_are_named(model, pairs):
    seen: list[tuple[int, int]] = []
    corruptions = [Corruption("gaussian", samples=2), "mean"]
    made = robustness(
        model, pairs[:12], corruptions=corruptions, metrics=("logit_diff",), on_progress=lambda *done: seen.append(done)
    )
    assert [cell.corruption for cell in made.cells] == ["token", "gaussian (samples 2)", "mean"]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_pairs_that_the_model_does_not_answer_are_refused(model, pairs):
    turned = [Pair(**vars(pair) | {"correct": pair.wrong, "wrong": pair.correct}) for pair in pairs[:6]]
    with pytest.raises(InputError, match="verify-nothing-to-rank"):
        robustness(model, turned)
