"""The verdict on maps whose truth is known, and on evidence that lacks something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from patchlight.errors import InputError
from patchlight.judge.evidence import ComponentMap, Evidence, find_candidates, ranked_map
from patchlight.judge.thresholds import THRESHOLDS, Thresholds
from patchlight.judge.verdict import REASONS, Verdict, judge, word_under
from patchlight.records import Site
from tests.judge.toy_sets import Combine, with_sets

Simulate = Callable[..., Evidence]


def codes(verdict: Verdict) -> list[str]:
    return [reason.code for reason in verdict.reasons]


def judged(evidence: Evidence, seed: int = 0, **laws: Combine) -> Verdict:
    """The verdict with sets grown, each of whose reasons is listed and has finite numbers under the listed names."""
    complete = evidence.components and all(part.nulls for part in evidence.components.values())
    verdict = judge(with_sets(evidence, **laws) if complete and len(evidence.gaps) > 1 else evidence, seed=seed)
    for reason in verdict.reasons + verdict.why_not_stronger:
        assert tuple(reason.numbers) == REASONS[reason.code]
        assert np.isfinite([value for value in reason.numbers.values() if not isinstance(value, str)]).all()
    return verdict


@pytest.mark.parametrize("seed", range(4))
def test_a_small_set_confirmed_in_both_directions_is_localised_and_named(simulate: Simulate, seed: int) -> None:
    verdict = judged(simulate("localised", seed), seed)
    assert verdict.word == "localised"
    assert codes(verdict)[:4] == ["set-gives-back", "set-takes-away", "set-is-small", "set-beats-nulls"]
    assert verdict.sets is not None
    assert verdict.sets.smallest is not None
    strong = {Site("mlp_out", 1, None, "subject_last"), Site("attn_out", 4, None, "last")}
    assert set(verdict.sets.smallest.sites) <= strong
    assert {candidate.site for candidate in verdict.candidates if candidate.confirmed} == strong


@pytest.mark.parametrize("seed", range(2))
def test_a_joint_effect_that_no_small_set_reaches_is_distributed(simulate: Simulate, seed: int) -> None:
    verdict = judged(simulate("distributed", seed, facts=60), seed)
    assert verdict.word == "distributed"
    assert codes(verdict) == ["joint-gives-back", "joint-takes-away", "no-small-set", "set-beats-nulls"]
    limits = verdict.reasons[2].numbers
    assert (limits["limit"], limits["eligible"]) == (2, 48)
    assert limits["recovery_high"] < limits["share"]


def test_a_set_between_small_and_large_is_undetermined(simulate: Simulate) -> None:
    verdict = judged(simulate("in between", 0))
    assert verdict.word == "undetermined"
    assert codes(verdict) == ["between"]
    assert verdict.reasons[0].numbers["size"] == 3


def test_without_sets_a_map_of_single_sites_decides_nothing(simulate: Simulate) -> None:
    verdict = judge(simulate("localised", 0), seed=0)
    assert (verdict.word, codes(verdict)) == ("undetermined", ["sets-not-measured"])
    assert verdict.candidates


@pytest.mark.parametrize("truth", ["localised", "distributed", "nothing"])
def test_no_grade_above_c_while_something_that_a_demands_is_wanting(simulate: Simulate, truth: str) -> None:
    verdict = judged(simulate(truth, 1))
    assert verdict.grade == ("D" if verdict.word == "undetermined" else "C")
    told = "thresholds-not-calibrated" in [reason.code for reason in verdict.why_not_stronger]
    assert told != THRESHOLDS.calibrated


def test_sites_that_work_only_together_are_localised_and_called_and_like(simulate: Simulate) -> None:
    def all_of_them(shares: np.ndarray) -> np.ndarray:
        return np.where((shares > 0.4).sum(axis=1) >= 2, 1.0, 0.0)

    def any_of_them(shares: np.ndarray) -> np.ndarray:
        return (shares > 0.4).any(axis=1).astype(float)

    verdict = judged(simulate("localised", 0, control=0.1), recovery=all_of_them, damage=any_of_them)
    assert verdict.word == "localised"
    assert codes(verdict)[-1] == "and-like"
    backups = judged(simulate("localised", 0, control=0.1), recovery=any_of_them, damage=all_of_them)
    assert backups.word == "localised"
    assert codes(backups)[-1] == "or-like"


def test_nothing_is_localised_in_200_null_data_sets(simulate: Simulate) -> None:
    named = 0
    for seed in range(200):
        verdict = judge(simulate("nothing", seed, facts=24, noise=0.2), seed=seed)
        named += any(candidate.confirmed for candidate in verdict.candidates)
    # discovery alone errs in 5 %; confirmation on other facts leaves next to nothing
    assert stats.binomtest(named, 200).proportion_ci(0.95).low < 0.01


def test_no_set_of_noise_is_ever_confirmed(simulate: Simulate) -> None:
    for seed in range(3):
        verdict = judged(simulate("nothing", seed, facts=24, noise=0.2), seed)
        assert verdict.word == "undetermined"
        assert codes(verdict)[0] in {"set-not-confirmed", "no-set-grown"}


def test_a_null_that_gives_back_as_much_is_never_a_finding(simulate: Simulate) -> None:
    verdict = judged(simulate("localised", 0, control=1.0))
    assert (verdict.word, codes(verdict)) == ("undetermined", ["set-touches-null"])
    assert verdict.reasons[0].numbers["null"] == "another-fact"


def test_enough_but_not_needed_is_undetermined(simulate: Simulate) -> None:
    verdict = judged(simulate("localised", 0, damage=0.2))
    assert codes(verdict) == ["enough-not-needed"]
    assert verdict.reasons[0].numbers["recovery"] > 0.5 > verdict.reasons[0].numbers["damage"]


def test_needed_but_not_enough_is_undetermined(simulate: Simulate) -> None:
    verdict = judged(simulate("localised", 0), recovery=lambda shares: 0.2 * np.minimum(shares.sum(axis=1), 1.0))
    assert codes(verdict) == ["needed-not-enough"]


def test_bars_are_in_one_record(simulate: Simulate) -> None:
    evidence = with_sets(simulate("localised", 0))
    assert judge(evidence, seed=0, thresholds=replace(THRESHOLDS, confirmed=1.1)).word == "undetermined"
    calibrated = judge(evidence, seed=0, thresholds=Thresholds(calibrated=True))
    assert "thresholds-not-calibrated" not in [reason.code for reason in calibrated.why_not_stronger]
    assert [THRESHOLDS.small_set(*size) for size in ((240, 30), (48, 6), (240, None), (4, 2))] == [10, 2, 24, 1]


@pytest.mark.parametrize("truth", ["localised", "distributed", "nothing"])
@pytest.mark.parametrize("bars", [{"confirmed": 1.1}, {"small": 0.001}, {"small": 1.0, "small_of_cut": 1.0}])
def test_the_word_under_other_bars_is_that_of_the_judge(simulate: Simulate, truth: str, bars: dict[str, float]) -> None:
    evidence = with_sets(simulate(truth, 0))
    other = replace(THRESHOLDS, **bars)
    assert word_under(judge(evidence, seed=0), other) == judge(evidence, seed=0, thresholds=other).word


def test_halves_that_disagree_are_undetermined(simulate: Simulate) -> None:
    evidence = simulate("localised", 3)
    quiet = simulate("nothing", 4)
    held_out = evidence.held_out[:, None, None]
    mixed = {
        name: replace(part, recovery=np.where(held_out, quiet.components[name].recovery, part.recovery))
        for name, part in evidence.components.items()
    }
    verdict = judged(replace(evidence, components=mixed))
    assert verdict.word == "undetermined"
    assert not any(candidate.confirmed for candidate in verdict.candidates)


def test_few_facts_one_template_and_no_control_say_what_to_add(simulate: Simulate) -> None:
    assert codes(judged(simulate("localised", 0, facts=12))) == ["too-few-facts"]
    assert codes(judged(simulate("localised", 0, templates=1))) == ["one-template"]
    evidence = simulate("localised", 0)
    bare = {name: replace(part, nulls={}) for name, part in evidence.components.items()}
    assert codes(judged(replace(evidence, components=bare))) == ["no-control"]
    assert codes(judged(replace(evidence, components={}))) == ["nothing-swept"]


def test_a_model_that_answers_almost_nothing_has_no_knowledge_to_localise(simulate: Simulate) -> None:
    verdict = judged(simulate("localised", 0, facts=3, asked=60))
    assert verdict.word == "no knowledge to localise"
    assert verdict.reasons[0].numbers == {"known": 3, "asked": 60, "needed": 5}


def test_no_pair_at_all_is_an_answer_too(simulate: Simulate) -> None:
    evidence = simulate("localised", 0, facts=10)
    empty = {
        name: ComponentMap(part.recovery[:0], part.damage[:0], part.structural, {"another-fact": part.recovery[:0]})
        for name, part in evidence.components.items()
    }
    nothing = replace(evidence, components=empty, gaps=evidence.gaps[:0], facts=(), templates=())
    assert judged(nothing).word == "no knowledge to localise"
    assert judged(replace(nothing, components={})).word == "no knowledge to localise"


def test_a_small_pack_fully_known_lacks_facts_not_knowledge(simulate: Simulate) -> None:
    assert codes(judged(simulate("localised", 0, facts=4))) == ["too-few-facts"]


def test_constant_effects_are_undetermined(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    constant = {
        name: replace(part, recovery=np.ones_like(part.recovery), nulls={"another-fact": np.zeros_like(part.recovery)})
        for name, part in evidence.components.items()
    }
    verdict = judged(replace(evidence, components=constant))
    assert verdict.word == "undetermined"
    assert not verdict.candidates


def test_structural_and_still_sites_are_never_ranked(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    mlp = evidence.components["mlp_out"]
    mlp.structural[1, 1] = True  # the strongest site
    for effects in mlp.maps:
        effects[:, :, 0] = 1e-6  # a position before the words that differ: nothing but rounding
    ranked = ranked_map(evidence)
    assert Site("mlp_out", 1, None, "subject_last") not in ranked.sites
    assert Site("mlp_out", 3, None, "subject_first") not in ranked.sites
    assert ranked.structural == 1
    assert len(ranked.sites) == 48 - 1 - 6


def test_everything_structural_leaves_nothing_to_rank(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    for part in evidence.components.values():
        part.structural[:] = True
    verdict = judged(evidence)
    assert codes(verdict) == ["nothing-to-rank"]


def test_a_role_that_few_facts_have_is_counted_but_not_ranked(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    for part in evidence.components.values():
        part.recovery[10:, :, 0] = np.nan  # five facts have a first subject token of its own
    ranked = ranked_map(evidence)
    assert ranked.too_few_facts == 12
    assert {site.position for site in ranked.sites} == {"subject_last", "relation", "last"}
    assert judged(evidence).word == "localised"


def test_pairs_without_a_control_donor_are_left_to_the_others(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    for part in evidence.components.values():
        part.nulls["another-fact"][::7] = np.nan
    assert judged(evidence).word == "localised"


def test_the_same_evidence_and_seed_give_the_same_verdict(simulate: Simulate) -> None:
    assert judged(simulate("localised", 5), 9) == judged(simulate("localised", 5), 9)


def test_candidates_are_ordered_by_the_discovery_facts_alone(simulate: Simulate) -> None:
    evidence = simulate("localised", 2)
    before = find_candidates(ranked_map(evidence), evidence, seed=0)
    for part in evidence.components.values():
        part.recovery[evidence.held_out] *= 0.9
    after = find_candidates(ranked_map(evidence), evidence, seed=0)
    assert [candidate.site for candidate in before] == [candidate.site for candidate in after]
    assert [candidate.p for candidate in before] == [candidate.p for candidate in after]


def test_maps_of_another_shape_are_refused(simulate: Simulate) -> None:
    evidence = simulate("localised", 0)
    with pytest.raises(InputError) as refused:
        replace(evidence, roles=evidence.roles[:2])
    assert refused.value.code == "judge-map-shape"
    with pytest.raises(InputError, match="one a pair"):
        replace(evidence, gaps=evidence.gaps[:3])
