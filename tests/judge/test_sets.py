"""What the facts held out say of grown sets, and the indices beside their nulls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from patchlight.judge.concentration import concentration_of
from patchlight.judge.evidence import Evidence
from patchlight.judge.sets import TriedSets, try_sets
from patchlight.judge.statistics import cluster_bootstrap
from patchlight.judge.thresholds import THRESHOLDS, Thresholds
from patchlight.judge.verdict import Verdict, judge
from tests.judge.toy_sets import with_sets

Simulate = Callable[..., Evidence]


def tried(evidence: Evidence) -> TriedSets:
    assert evidence.sets is not None
    return try_sets(evidence.sets, evidence.facts, evidence.held_out, thresholds=THRESHOLDS, seed=0)


def test_intervals_are_those_of_the_facts_held_out_alone(simulate: Simulate) -> None:
    evidence = with_sets(simulate("localised", 0))
    assert evidence.sets is not None
    for each, measured in zip(tried(evidence).sets, evidence.sets.sets, strict=True):
        rows = evidence.held_out
        facts = [fact for fact in evidence.facts if fact in evidence.confirmation]
        expected = cluster_bootstrap(measured.denoise.joint[rows], evidence.gaps[rows], facts, seed=0).at()
        assert each.recovery == expected
        assert each.recovery.n == len(evidence.confirmation)
        share = measured.noise.joint[rows].sum() / evidence.gaps[rows].sum()
        assert each.damage.estimate == pytest.approx(share)
        alone = measured.denoise.singles.sum(axis=1)[rows].sum() / evidence.gaps[rows].sum()
        assert each.surplus.estimate == pytest.approx(each.recovery.estimate - alone)


def test_a_set_is_chosen_without_a_look_at_the_facts_held_out(simulate: Simulate) -> None:
    evidence = simulate("localised", 1)
    before = with_sets(evidence).sets
    for part in evidence.components.values():
        part.recovery[evidence.held_out] = 0.0
        part.damage[evidence.held_out] = 0.0
    after = with_sets(evidence).sets
    assert before is not None
    assert after is not None
    assert [each.grown for each in before.sets] == [each.grown for each in after.sets]
    assert judge(replace(evidence, sets=after), seed=0).reasons[0].code == "set-not-confirmed"


def test_windows_and_curves_have_the_facts_that_they_were_measured_on(simulate: Simulate) -> None:
    evidence = with_sets(simulate("distributed", 0))
    found = tried(evidence)
    discovery = len(set(evidence.facts)) - len(evidence.confirmation)
    assert set(found.windows.n) == {discovery}
    np.testing.assert_allclose(found.windows_surplus.estimate, 0, atol=1e-9)  # effects that add up
    for curve in found.curves:
        assert set(curve.discovery.n) == {discovery}
        assert set(curve.held_out.n) == {len(evidence.confirmation)}
        assert curve.upper(2) < 0.5 < curve.upper(20)
        assert curve.upper(0) == 0


def test_indices_tell_few_sites_from_many_and_have_the_null_beside_them(simulate: Simulate) -> None:
    few, many = (
        {(row.name, row.sign): row for row in concentration_of(simulate(truth, 0, noise=0.0), 0)}
        for truth in ("localised", "distributed")
    )
    first, second = (rows["participation", "positive"].recovery for rows in (few, many))
    assert first is not None
    assert second is not None
    assert first.low <= first.estimate < 4 < 15 < second.estimate
    centre = few["centre", "positive"].recovery
    assert centre is not None
    assert centre.estimate == pytest.approx((1 * 0.85 + 4 * 0.75) / 1.6, abs=0.5)
    assert all(row.null is not None for row in few.values() if row.sign == "positive")


def test_an_effect_without_a_negative_part_has_no_index_of_it(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    for part in evidence.components.values():
        np.abs(part.recovery, out=part.recovery)
    rows = [row for row in concentration_of(evidence, 0) if row.sign == "negative"]
    assert rows
    assert all(row.recovery is None for row in rows)


def test_evidence_that_lacks_something_has_no_indices(simulate: Simulate) -> None:
    assert concentration_of(simulate("localised", 0, facts=6), 0) == ()
    assert concentration_of(replace(simulate("localised", 0), components={}), 0) == ()


def pushed(evidence: Evidence, share: float) -> Evidence:
    """The same evidence, where a push in any direction takes away this share of the damage."""
    parts = {
        name: replace(part, damage_nulls={"random-donor": share * part.damage})
        for name, part in evidence.components.items()
    }
    return replace(evidence, components=parts)


def test_grade_a_demands_that_the_damage_lies_above_its_nulls(simulate: Simulate) -> None:
    def verdict(share: float) -> Verdict:
        evidence = with_sets(pushed(simulate("localised", 0, facts=80), share))
        return judge(evidence, seed=0, thresholds=Thresholds(calibrated=True))

    above, touched = verdict(0.3), verdict(1.0)
    assert (above.word, above.grade, touched.word, touched.grade) == ("localised", "A", "localised", "C")
    assert "damage-touches-null" in [each.code for each in touched.why_not_stronger]


def test_grade_a_demands_the_nulls_of_the_map_beside_the_set(simulate: Simulate) -> None:
    evidence = pushed(with_sets(simulate("localised", 0, facts=80)), 0.3)  # made after the sets were measured
    verdict = judge(evidence, seed=0, thresholds=Thresholds(calibrated=True))
    assert (verdict.word, verdict.grade) == ("localised", "C")
    (missing,) = [each for each in verdict.why_not_stronger if each.code == "set-nulls-missing"]
    assert missing.numbers["nulls"] == "random-donor"
