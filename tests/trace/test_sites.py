"""Names of sites, their tokens in a pair, and the sites that restore everything by construction."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchlight.errors import InputError
from patchlight.pairs.align import align
from patchlight.records import Pair, Site
from patchlight.trace.capture import capture
from patchlight.trace.engine import replay
from patchlight.trace.rows import COMPONENTS, HEADED, UNLAYERED, Rows
from patchlight.trace.sites import POSITIONS, check_site, is_structural, n_units, read_site, resolve, structural_sites
from patchlight.trace.sweep import sweep

COMPONENTS_BY_POSITION = [name for name in COMPONENTS if name not in HEADED]
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "sites.md"


def indices(below: int) -> st.SearchStrategy[int | list[int] | range]:
    window = st.tuples(st.integers(0, below), st.integers(1, 9)).map(lambda pair: range(pair[0], pair[0] + pair[1]))
    return st.integers(0, below) | st.lists(st.integers(0, below), min_size=1, max_size=6, unique=True) | window


roles = st.sampled_from(POSITIONS) | st.tuples(*[st.integers(0, len(POSITIONS) - 1)] * 2).filter(
    lambda ends: ends[0] < ends[1]
).map(lambda ends: f"{POSITIONS[ends[0]]}-{POSITIONS[ends[1]]}")


@st.composite
def any_site(draw) -> Site:
    component = draw(st.sampled_from(COMPONENTS))
    layer = None if component in UNLAYERED else draw(indices(99))
    unit = draw(st.none() | indices(9999)) if component in (*HEADED, "mlp_hidden") else None
    return Site(component, layer, unit, draw(st.none() | indices(500) | roles))


@given(site=any_site())
def test_every_site_has_a_name_that_reads_back(site):
    assert read_site(str(site)) == site
    assert hash(read_site(str(site))) == hash(site)


@given(sites=st.lists(any_site(), max_size=6))
def test_sites_have_one_order(sites):
    for one in sites:
        for other in sites:
            assert (one < other) + (one == other) + (one > other) == 1
    backwards = sites[::-1]
    assert sorted(sites) == sorted(backwards)


@pytest.mark.parametrize(
    ("site", "name"),
    [
        (Site("mlp_out", 7, None, "subject_last"), "blocks.7.mlp_out@subject_last"),
        (Site("head_out", 9, 6, "last"), "blocks.9.head_out.6@last"),
        (Site("mlp_out", range(3, 6)), "blocks.3-5.mlp_out"),
        (Site("head_out", 9, [9, 0, 6]), "blocks.9.head_out.0+6+9"),
        (Site("mlp_hidden", 4, (12, 13, 14, 15, 20)), "blocks.4.mlp_hidden.12-15+20"),
        (Site("embed", None, None, range(3, 6)), "embed@3-5"),
        (Site("resid_pre", [2], None, np.int64(4)), "blocks.2.resid_pre@4"),
        (Site("logits"), "logits"),
    ],
)
def test_names_are_those_of_the_method(site, name):
    assert str(site) == name


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("blocks.3.head_out.0+1+2", "blocks.3.head_out.0-2"),
        ("blocks.3.head_out.4+0-2+3", "blocks.3.head_out.0-4"),
        ("blocks.3-3.mlp_out@5-5", "blocks.3.mlp_out@5"),
        ("blocks.03.mlp_out@2+3", "blocks.3.mlp_out@2-3"),
    ],
)
def test_other_spellings_are_drawn_together(name, canonical):
    assert str(read_site(name)) == canonical


@pytest.mark.parametrize(
    ("name", "help_given"),
    [
        ("", "write it like"),
        ("blocks.7", "choose one of"),
        ("blocks.x.mlp_out", "write it like"),
        ("blocks.1.mlp_out@-1", "write it like"),
        ("blocks.1-.mlp_out", "write it like"),
        ("blocks.0-2-4.mlp_out", "write it like"),
        ("blocks.0.mlp_hidden.0-99999999", "write it like"),
        ("blocks.0.mlp_out@３", "write it like"),
        ("mlp_out@3", "write it like blocks.3.mlp_out"),
        ("blocks.1.embed", "write it like embed"),
        ("blocks.1.hook_mlp_out@3", "did you mean 'mlp_out'"),
        ("blocks.1.mlpout", "did you mean 'mlp_out'"),
        ("blocks.1.q_proj", "choose one of"),
        ("blocks.1.attn_out.3", "leave the unit out"),
        ("logits.3", "leave the unit out"),
        ("blocks.5-3.mlp_out", "lower end first: 3-5"),
        ("blocks.1.mlp_out@4-2", "lower end first: 2-4"),
        ("blocks.1.head_out.2+2", "different"),
        ("blocks.1.head_out.0-4+3", "different"),
        ("blocks.1.mlp_out@subject_lst", "did you mean 'subject_last'"),
        ("blocks.1.mlp_out@last-subject", "write it like relation-last"),
        ("blocks.1.mlp_out@last-last", "write it like relation-last"),
        ("blocks.1.mlp_out@bos-relation-last", "write it like relation-last"),
    ],
)
def test_other_names_are_refused_with_advice(name, help_given):
    with pytest.raises(InputError) as refused:
        read_site(name)
    assert refused.value.code == "trace-site-name"
    assert help_given in refused.value.fix


@pytest.mark.parametrize("part", [-1, [], [3, 3], [-1, 4], 10**6])
def test_no_site_is_made_of_indices_that_cannot_be(part):
    for field in ("layer", "unit", "position"):
        with pytest.raises(InputError, match="trace-site-name"):
            Site("head_out", **{"layer": 0, field: part})


# ---- in a pair and in a model


@pytest.fixture
def capital(tiny):
    """`w1 [w2 w3 w4] w5 w6`: the subject in brackets."""
    pair = Pair("w1 w2 w3 w4 w5 w6", "w1 w7 w8 w9 w5 w6", " w50", " w51", "w2 w3 w4", "w7 w8 w9")
    return align(tiny("gpt2").tokenizer, pair)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("before", 0),
        ("subject_first", 1),
        ("subject_last", 3),
        ("subject", (1, 2, 3)),
        ("relation", 4),
        ("last", 5),
        ("subject_last-last", (3, 4, 5)),
        ("before-subject", (0, 1, 2, 3)),
        (None, None),
        (2, 2),
        ((1, 5), (1, 5)),
    ],
)
def test_roles_become_the_tokens_of_the_pair(position, expected, capital):
    site = Site("mlp_out", 3, None, position)
    assert resolve(site, capital) == Site("mlp_out", 3, None, expected)


def test_a_role_stands_for_all_its_tokens(tiny):
    pair = Pair("w2 w3 w4 w5", "w7 w3 w4 w5", " w50", " w51", "w2", "w7")
    alignment = align(tiny("gpt2").tokenizer, pair)
    assert resolve(Site("mlp_out", 0, None, "relation"), alignment).position == (1, 2)
    assert resolve(Site("mlp_out", 0, None, "subject"), alignment).position == 0


@pytest.mark.parametrize(("clean", "expected"), [("w1 w2 w3", (1, 2)), ("w1 w0 w3", 2)])
def test_a_subject_that_ends_the_prompt_is_whole(clean, expected, tiny):
    subject = " ".join(clean.split()[1:]) if expected == (1, 2) else "w3"
    pair = Pair(clean, clean[:-1] + "9", " w50", " w51", subject, subject[:-1] + "9")
    alignment = align(tiny("gpt2").tokenizer, pair)
    assert resolve(Site("mlp_out", 0, None, "subject"), alignment).position == expected


@pytest.mark.parametrize("position", ["bos", "bos-last", 6, (2, 6)])
def test_tokens_that_a_pair_lacks_are_refused_by_name(position, capital):
    site = Site("mlp_out", 3, None, position)
    with pytest.raises(InputError, match="trace-no-position") as refused:
        resolve(site, capital)
    assert refused.value.where == str(site)
    assert "w1|w2|w3|w4|w5|w6" in refused.value.what


@pytest.mark.parametrize(
    ("name", "family", "code"),
    [
        ("blocks.2.mlp_out", "gpt2", "trace-no-layer"),
        ("blocks.0-2.mlp_out", "gpt2", "trace-no-layer"),
        ("blocks.0.head_out.4", "gpt2", "trace-no-unit"),
        ("blocks.0.k.2", "llama", "trace-no-unit"),
        ("blocks.0.mlp_hidden.60-64", "gpt2", "trace-no-unit"),
        ("blocks.0.mlp_hidden.24", "llama", "trace-no-unit"),
        ("blocks.0.mlp_hidden", "mixtral", "model-no-component"),
        ("blocks.0.resid_mid", "gptj", "model-no-component"),
    ],
)
def test_sites_that_a_model_lacks_are_refused(name, family, code, tiny):
    with pytest.raises(InputError, match=rf"\[{code}\]"):
        check_site(read_site(name), tiny(family))


def test_a_site_that_was_never_a_name_is_refused_too(tiny):
    with pytest.raises(InputError, match="trace-site-name"):
        check_site(Site("mlp_out", None), tiny("gpt2"))


@pytest.mark.parametrize("name", ["blocks.0-1.head_out.0-3@last", "blocks.1.k.1", "blocks.1.mlp_hidden.23", "embed@3"])
def test_sites_that_a_model_has_pass(name, tiny):
    check_site(read_site(name), tiny("llama"))


def test_as_many_units_are_counted_as_the_run_holds(family, tiny):
    model = tiny(family)
    if model.family.mlp_proj is not None:
        run = capture(model, torch.tensor([[1, 2, 3]]), {"mlp_hidden"})
        assert n_units("mlp_hidden", model) == run.sites["mlp_hidden"][0].shape[-1]


def test_every_name_in_the_guide_is_canonical():
    names = re.findall(r"^\| `([^`]+)`", GUIDE.read_text(), flags=re.MULTILINE)
    assert len(names) > 9
    assert [str(read_site(name)) for name in names] == names


# ---- by construction


def single_sites(data, model, pair_of):
    """For each component `[layer, position]`: what the graph calls structural, and what restores everything."""
    # Not token 0: it pads, and where its embedding is zero a whole prompt of it is zero in every layer.
    clean = data.draw(st.lists(st.integers(1, 49), min_size=1, max_size=5))
    differing = data.draw(st.sets(st.integers(0, len(clean) - 1), min_size=1, max_size=3))
    pair = pair_of(clean, [token % 49 + 1 if at in differing else token for at, token in enumerate(clean)])
    for component in COMPONENTS_BY_POSITION:
        if component == "resid_mid" and model.parallel:
            continue
        effects = sweep(model, [pair], component=component)
        mask = structural_sites([align(model.tokenizer, pair)], component, model.n_layers)
        yield mask, np.isclose(effects.recovery(floor=-np.inf), 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "olmo2"])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_what_is_structural_by_the_graph_restores_everything_and_nothing_else_does(name, data, tiny, pair_of):
    for structural, restored in single_sites(data, tiny(name), pair_of):
        np.testing.assert_array_equal(structural, restored)


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_behind_a_sliding_window_nothing_is_structural_that_does_not_restore_everything(data, tiny, pair_of):
    for structural, restored in single_sites(data, tiny("gemma2"), pair_of):
        assert restored[structural].all()


def test_a_shorter_prompt_has_no_structural_site_behind_its_end(tiny, pair_of):
    pairs = [pair_of([1, 2, 3, 4], [1, 2, 3, 9]), pair_of([1, 2], [1, 9])]
    alignments = [align(tiny("gpt2").tokenizer, pair) for pair in pairs]
    mask = structural_sites(alignments, "resid_post", 2)
    assert mask.tolist() == [[[False, False, False, True]] * 2, [[False, True, False, False]] * 2]


@pytest.mark.parametrize("component", HEADED)
def test_no_single_head_is_structural(component, tiny, pair_of):
    alignment = align(tiny("gpt2").tokenizer, pair_of([1, 2, 3], [9, 2, 3]))
    assert not structural_sites([alignment], component, 1).any()


CLEAN, CORRUPTED = [3, 14, 15, 9], [3, 34, 15, 9]


def distance(model, sites: list[Site], clean: list[int], corrupted: list[int]) -> float:
    """How far the run with all sites replaced ends from the donor's run."""
    kept = {site.component for site in sites} - {"embed", "resid_pre", "resid_post"}
    inside = {"k", "v"}
    recipient = capture(model, torch.tensor([corrupted]), inside | {"attn_out", "mlp_out"})
    donor = capture(model, torch.tensor([clean]), kept)
    patched = replay(model, recipient, donor, Rows.of([0], [sites], len(clean)), memory=1 << 20)
    return float((patched - donor.final).abs().max())


@pytest.mark.parametrize(
    ("names", "structural"),
    [
        ("embed@1", True),
        ("embed@0+2-3", False),
        ("blocks.0.resid_post", True),
        ("blocks.0.resid_post@1-3", True),
        ("blocks.0.resid_post@1-2", False),
        ("blocks.0.resid_post@1 blocks.1.resid_pre@2-3", True),
        ("blocks.0.resid_mid@1-3", True),
        ("blocks.0-1.mlp_out", False),
        ("blocks.0-1.attn_out@3", True),
        ("blocks.1.attn_out@3", False),
        ("blocks.0-1.head_out@3", True),
        ("blocks.0.head_out.0-2@3 blocks.0.head_out.3@3 blocks.1.attn_out@3", True),
        ("blocks.0.head_out.0-2@3 blocks.1.attn_out@3", False),
        ("blocks.0-1.v", False),
        ("blocks.0-1.v blocks.0-1.pattern@3", True),
        ("blocks.0-1.v.0 blocks.0-1.v.1 blocks.0-1.q@3 blocks.0-1.k", True),
        ("blocks.0-1.v blocks.0-1.k", True),
        ("blocks.0-1.v.0 blocks.0-1.k.0 blocks.0-1.head_out.2-3@3", True),
        ("blocks.0-1.v.0 blocks.0-1.k.0 blocks.0-1.head_out.1-2@3", False),
        ("blocks.0.mlp_hidden blocks.1.resid_pre@3", False),
        ("", False),
    ],
)
def test_a_set_is_structural_exactly_if_it_gives_the_donors_run(names, structural, tiny, pair_of):
    sites = [read_site(name) for name in names.split()]
    models = [tiny("llama", seed=seed) for seed in range(3)]
    alignment = align(models[0].tokenizer, pair_of(CLEAN, CORRUPTED))
    assert is_structural(sites, alignment, models[0]) == structural
    assert (max(distance(model, sites, CLEAN, CORRUPTED) for model in models) < 1e-9) == structural


@st.composite
def joint(draw, model, length: int) -> list[Site]:
    """A few wide sites, so that about as many sets are cuts as are not."""
    absent = {"mlp_out", "final_norm", "logits"}
    absent |= {"resid_mid"} if model.parallel else set()
    component = st.sampled_from([name for name in COMPONENTS if name not in absent])

    def some(count: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True)

    def site(name: str) -> st.SearchStrategy[Site]:
        layer = st.none() if name in UNLAYERED else st.just([0, 1]) | some(2)
        unit = st.none() | some(n_units(name, model)) if name in HEADED else st.none()
        return st.builds(Site, st.just(name), layer, unit, st.none() | st.just(length - 1) | some(length))

    return draw(st.lists(component.flatmap(site), min_size=1, max_size=5))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "bloom"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_set_is_structural_exactly_if_it_gives_the_donors_run(name, data, tiny, pair_of):
    models = [tiny(name, seed=seed) for seed in range(2)]
    # Each token once: where two are the same their values are, and it does not matter which of them attention reads.
    clean = data.draw(st.lists(st.integers(1, 49), min_size=1, max_size=4, unique=True))
    differing = data.draw(st.sets(st.integers(0, len(clean) - 1), min_size=1, max_size=2))
    corrupted = [token % 49 + 1 if at in differing else token for at, token in enumerate(clean)]
    assume(len(set(corrupted)) == len(corrupted))
    sites = data.draw(joint(models[0], len(clean)))
    alignment = align(models[0].tokenizer, pair_of(clean, corrupted))
    given_back = max(distance(model, sites, clean, corrupted) for model in models) < 1e-9
    assert is_structural(sites, alignment, models[0]) == given_back


def test_the_end_of_the_model_is_structural_at_the_last_token(tiny, pair_of):
    model = tiny("gpt2")
    alignment = align(model.tokenizer, pair_of(CLEAN, CORRUPTED))
    for component in ("final_norm", "logits"):
        assert is_structural([Site(component)], alignment, model)
        assert is_structural([Site(component, None, None, "last")], alignment, model)
        assert not is_structural([Site(component, None, None, "subject-relation")], alignment, model)
