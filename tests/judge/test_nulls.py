"""Every null map that was made has to be beaten, and the one that is not is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from patchlight.errors import InputError
from patchlight.judge.evidence import ComponentMap, Evidence, ModelNull, find_candidates, ranked_map
from patchlight.judge.statistics import fact_means
from patchlight.judge.verdict import Verdict, judge
from patchlight.records import Site
from tests.judge.toy_sets import with_sets

Simulate = Callable[..., Evidence]


def with_nulls(evidence: Evidence, **changes: Callable[[ComponentMap], object]) -> Evidence:
    """The evidence with fields of every component made from that component."""
    components = {
        name: replace(part, **{field: make(part) for field, make in changes.items()})
        for name, part in evidence.components.items()
    }
    return replace(evidence, components=components)


def model_null(evidence: Evidence, share: float, damage: float | None = None) -> Callable[[ComponentMap], object]:
    """A model at random init whose wiring gives back a share of what the trained one does, of gaps a tenth as large."""

    def made(part: ComponentMap) -> dict[str, ModelNull]:
        lost = share if damage is None else damage
        return {"random-init": ModelNull(0.1 * share * part.recovery, 0.1 * lost * part.damage, 0.1 * evidence.gaps)}

    return made


def said(verdict: Verdict) -> list[tuple[str, object]]:
    return [(reason.code, reason.numbers.get("null")) for reason in verdict.reasons]


def test_what_the_wiring_gives_back_is_no_finding(simulate: Simulate) -> None:
    """As at an embedding-like place: strong, both ways, above every donor, and the same before any training."""
    evidence = simulate("localised", 0)
    verdict = judge(with_sets(with_nulls(evidence, models=model_null(evidence, 1.0))), seed=0)
    assert verdict.word == "undetermined"
    assert said(verdict) == [("set-touches-null", "random-init")]
    assert verdict.candidates
    assert all(candidate.held and not candidate.confirmed for candidate in verdict.candidates)


def test_a_planted_effect_beats_every_null_and_the_highest_is_named(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    lower = with_nulls(
        evidence,
        nulls=lambda part: {**part.nulls, "permuted": 0.2 * part.recovery, "random-donor": 0.0 * part.recovery},
        damage_nulls=lambda part: {"random-donor": 0.1 * part.damage},
        models=model_null(evidence, 0.3),
    )
    verdict = judge(with_sets(lower), seed=0)
    assert verdict.word == "localised"
    assert ("set-beats-nulls", "another-fact") in said(verdict)
    strongest = verdict.candidates[0]
    assert set(strongest.nulls) == {"another-fact", "permuted", "random-donor", "random-init"}
    assert set(strongest.damage_nulls) == {"random-donor", "random-init"}
    # a tenth of the effects over a tenth of the gaps: the share is that of the recovery
    assert strongest.nulls["random-init"].estimate == pytest.approx(0.3 * strongest.recovery.estimate)
    assert strongest.damage_nulls["random-donor"].estimate == pytest.approx(0.1 * strongest.damage.estimate)


@pytest.mark.parametrize("name", ["permuted", "random-donor"])
def test_one_donor_that_gives_back_as_much_is_enough_to_refuse(simulate: Simulate, name: str) -> None:
    evidence = simulate("localised", 0)
    as_much = with_nulls(evidence, nulls=lambda part: {**part.nulls, name: 1.01 * part.recovery})
    verdict = judge(with_sets(as_much), seed=0)
    assert said(verdict) == [("set-touches-null", name)]
    assert not verdict.candidates
    near = simulate("localised", 0, facts=60, noise=0.01)
    near = with_nulls(near, nulls=lambda part: {**part.nulls, name: 0.93 * part.recovery})
    touched = find_candidates(ranked_map(near), near, seed=0)[0].touches
    assert touched is not None
    assert touched[0] == name


def test_a_random_push_that_damages_as_much_is_named(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    pushed = with_nulls(evidence, damage_nulls=lambda part: {"random-donor": part.damage})
    wired = with_nulls(evidence, models=model_null(evidence, 0.0, damage=1.0))
    for name, each in (("random-donor", pushed), ("random-init", wired)):
        touched = find_candidates(ranked_map(each), each, seed=0)[0].damage_touches
        assert touched is not None
        assert touched[0] == name


def test_a_site_refused_for_the_wiring_leaves_the_others_standing(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    wired = with_nulls(evidence, models=model_null(evidence, 0.0))
    wired.components["mlp_out"].models["random-init"].recovery[:] = 0.1 * wired.components["mlp_out"].recovery
    verdict = judge(wired, seed=0)
    assert [candidate.site for candidate in verdict.candidates if candidate.confirmed] == [
        Site("attn_out", 4, None, "last")
    ]


def test_p_values_are_the_largest_of_exact_tests_against_each_null(simulate: Simulate) -> None:
    evidence = simulate("localised", 1, facts=20, templates=2)
    evidence = with_nulls(evidence, nulls=lambda part: {**part.nulls, "permuted": 0.6 * part.recovery})
    ranked = ranked_map(evidence)
    candidates = find_candidates(ranked, evidence, seed=0)
    assert len(candidates) == 2
    rows = evidence.held_out
    facts = [fact for fact, row in zip(evidence.facts, rows, strict=True) if row]
    for candidate in candidates:
        cell = ranked.sites.index(candidate.site)
        exact = [
            stats.permutation_test(
                (fact_means((ranked.recovery - null)[rows][:, cell], facts),),
                np.mean,
                permutation_type="samples",
                n_resamples=np.inf,
            ).pvalue
            for null in ranked.nulls.values()
        ]
        # Holm over two candidates: the smaller is doubled, the larger kept
        assert candidate.p_confirmed in (pytest.approx(max(exact)), pytest.approx(2 * max(exact)))


def test_several_nulls_never_raise_the_rate_of_false_sites(simulate: Simulate) -> None:
    """Strong effects everywhere, each explained by one of two nulls: neither alone explains the map."""
    found = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        evidence = simulate("nothing", seed, facts=24, noise=0.2)

        def split(part: ComponentMap, random: np.random.Generator = random) -> dict[str, np.ndarray]:
            explained = np.arange(part.recovery[0].size).reshape(part.recovery.shape[1:]) % 2 == 0
            noise = [random.normal(0, 0.6, part.recovery.shape) for _ in range(2)]
            part.recovery[:] += 1.0
            return {
                "another-fact": np.where(explained, 1.0, -1.0) + noise[0],
                "permuted": np.where(explained, -1.0, 1.0) + noise[1],
            }

        mixed = with_nulls(evidence, nulls=split)
        found += bool(find_candidates(ranked_map(mixed), mixed, seed))
    assert stats.binomtest(found, 100).proportion_ci(0.95).low < 0.05


def test_what_was_not_made_is_listed(simulate: Simulate) -> None:
    evidence = replace(simulate("localised", 0), nulls_missing=("permuted", "random-init"))
    [reason] = [each for each in judge(evidence, seed=0).why_not_stronger if each.code == "nulls-missing"]
    assert reason.numbers == {"nulls": "permuted, random-init"}
    every = judge(replace(evidence, nulls_missing=()), seed=0)
    assert "nulls-missing" not in [each.code for each in every.why_not_stronger]


def test_nulls_of_one_component_alone_are_refused(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    parts = dict(evidence.components)
    parts["mlp_out"] = replace(parts["mlp_out"], nulls={})
    with pytest.raises(InputError) as refused:
        replace(evidence, components=parts)
    assert refused.value.code == "judge-nulls-differ"
