from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from patchlight.judge.evidence import Candidate
from patchlight.judge.published import ModuleEvidence, weigh
from patchlight.judge.statistics import IntervalMap, cluster_bootstrap
from patchlight.judge.verdict import Reason, Verdict
from patchlight.pairs.align import ROLES as EVERY_ROLE
from patchlight.records import Interval, Site
from patchlight.report import contents as c
from patchlight.report.build import render
from patchlight.report.replay import AskedProperly, AskedQuestion, PublishedRow, PublishedTable, Replay
from patchlight.report.texts import LANGUAGES
from patchlight.trace.screening import Screening
from patchlight.verify.agreement import FactMap, Robustness, compare
from tests.report.page import Page

ROLES = ("before", "subject_first", "subject_mid", "subject_last", "relation", "last")
LAYERS, FACTS = 6, 18


def effect_map(component: str, direction: str, seed: int, strength: float, nothing: bool = False) -> c.EffectMap:
    """A map as a study would give it: a rise along the subject early, along the last position late."""
    rng = np.random.default_rng(seed)
    layer = np.arange(LAYERS)[:, None]
    shape = np.zeros((LAYERS, len(ROLES)))
    shape[:, 3] = 1 - layer[:, 0] / (LAYERS - 1)
    shape[:, 5] = layer[:, 0] / (LAYERS - 1)
    scale = {"resid_pre": 1.0, "attn_out": 0.25, "mlp_out": 0.4}[component]
    facts = [f"fact-{i // 2}" for i in range(2 * FACTS)]
    effects = 4 * scale * strength * shape + rng.normal(0, 0.35 * scale, (len(facts), LAYERS, len(ROLES)))
    effects[:, :, 0] = np.nan
    effects[rng.random(len(facts)) < 0.4, :, 2] = np.nan
    gaps = rng.uniform(3, 5, len(facts))
    control = rng.normal(0, 0.3 * scale, effects.shape)
    control[np.isnan(effects)] = np.nan
    structural = np.zeros(shape.shape, dtype=bool)
    if component == "resid_pre":
        structural[0, 3] = True
        effects[:, 0, 3] = gaps
    estimate = cluster_bootstrap(effects, gaps, facts, seed=1, resamples=200)
    against = cluster_bootstrap(control, gaps, facts, seed=1, resamples=200)
    significant = (estimate.low > against.high) & ~structural
    if nothing:
        return c.EffectMap(component, direction, ROLES, against, {}, structural, np.zeros_like(structural))
    lower = cluster_bootstrap(control - 1, gaps, facts, seed=1, resamples=200)
    nulls = {"random-init": lower, "another-fact": against} if direction == "denoise" else {"random-donor": against}
    return c.EffectMap(component, direction, ROLES, estimate, nulls, structural, significant)


def example(seed: int, fact: str, subject: str, other: str, question: str, right: str, wrong: str) -> c.Example:
    rng = np.random.default_rng(seed)
    clean, corrupted = question.format(subject), question.format(other)
    words, others = tuple(clean.split(" ")), tuple(corrupted.split(" "))
    differing = tuple(i for i, (a, b) in enumerate(zip(words, others, strict=True)) if a != b)
    maps = []
    for component, scale in (("resid_pre", 1.0), ("attn_out", 0.3), ("mlp_out", 0.5)):
        for direction in ("denoise", "noise"):
            values = rng.normal(0, 0.05, (LAYERS, len(words)))
            values[:, differing[-1]] += scale * np.linspace(1, 0, LAYERS)
            values[:, -1] += scale * np.linspace(0, 1, LAYERS)
            values[:, : differing[0]] = 0.0
            structural = np.zeros(values.shape, dtype=bool)
            structural[0, differing[-1]] = component == "resid_pre"
            maps.append(c.ExampleMap(component, direction, values, structural))
    return c.Example(fact, clean, corrupted, right, wrong, words, others, differing, 3.41, -2.96, tuple(maps))


LOCALISED = Verdict(
    "definitional",
    "localised",
    "C",
    (
        Reason("set-gives-back", {"size": 2, "estimate": 0.62, "low": 0.55, "high": 0.69, "n": 9}),
        Reason("set-takes-away", {"size": 2, "estimate": 0.58, "low": 0.5, "high": 0.66, "n": 9}),
        Reason("set-is-small", {"size": 2, "eligible": 48, "limit": 2}),
        Reason("set-beats-nulls", {"size": 2, "low": 0.55, "null": "another-fact", "null_high": 0.08}),
    ),
    (Reason("nulls-missing", {"nulls": "permuted, before"}),
     Reason("thresholds-not-calibrated")),
    (
        Candidate(
            Site("mlp_out", 1, None, "subject_last"), 0.0004, 0.002,
            Interval(0.62, 0.55, 0.69, 9), Interval(0.58, 0.5, 0.66, 9),
            {"another-fact": Interval(0.02, -0.05, 0.08, 9)},
        ),
    ),
)  # fmt: skip
UNDETERMINED = Verdict(
    "associative",
    "undetermined",
    "C",
    (Reason("between", {"size": 3, "limit": 2, "eligible": 48, "share": 0.8}),),
    (Reason("few-facts-for-intervals", {"facts": 18, "needed": 40}),),
)
NOTHING = Verdict(
    "associative", "no knowledge to localise", "D", (Reason("knows-too-few", {"known": 2, "asked": 20, "needed": 5}),)
)


def kind(name: str, verdict: Verdict, seed: int, strength: float) -> c.KindResult:
    maps = tuple(
        effect_map(component, direction, seed + 7 * i + j, strength)
        for i, component in enumerate(("resid_pre", "attn_out", "mlp_out"))
        for j, direction in enumerate(("denoise", "noise"))
    )
    question = (
        "In the clinic the drug {} works mainly by blocking the"
        if name == "definitional"
        else "A seizure that {} may bring on begins in the"
    )
    first = example(seed, f"{name}-1", "carbamazepine", "ethosuximide", question, " sodium", " calcium")
    matrices = (matrix(),) if name == "definitional" else ()
    narrowing = c.Narrowing(screened(), 3) if name == "definitional" else None
    metrics = (replace(matrix(), cells=matrix().cells[:2]),) if name == "definitional" else ()
    across = exchanged() if name == "definitional" else ()
    direct = split() if name == "definitional" else None
    return c.KindResult(
        name,
        2 * FACTS,
        FACTS,
        3.2,
        -2.8,
        maps,
        (first,),
        verdict,
        matrices,
        narrowing,
        across=across,
        metrics=metrics,
        direct=direct,
    )


def exchanged() -> tuple[c.Transfer, ...]:
    """Weights of which one module carries what was learnt, activations without a control, and no gap at all."""
    names = [f"weights.blocks.{layer}.{part}" for layer in range(LAYERS) for part in ("norms", "attn", "mlp")]
    sites, facts = ("weights.embed", *names, "weights"), [f"fact-{number}" for number in range(FACTS)]
    rng = np.random.default_rng(8)
    moved = rng.normal(0, 0.05, (FACTS, len(sites)))
    moved[:, 12], moved[:, -1] = rng.normal(2.4, 0.2, FACTS), 3
    effect, control = (
        cluster_bootstrap(each, np.full(FACTS, 3.0), facts, seed=1, resamples=200) for each in (moved, 0.01 * moved)
    )
    whole = np.arange(len(sites)) == len(sites) - 1
    weights = c.Transfer("weights", "denoise", sites, effect, control, whole, FACTS, FACTS, 2)
    role = tuple(f"blocks.{layer}.mlp_out@last" for layer in range(len(sites)))
    activations = c.Transfer("mlp_out", "noise", role, effect, None, np.zeros_like(whole), FACTS, FACTS, 0)
    nothing = c.Transfer("mlp_out", "denoise", role, None, None, np.zeros_like(whole), 0, 0, 36)
    return activations, weights, nothing


def split() -> c.DirectEffects:
    """Two places: one that later parts pass on, and one that speaks to the answer, against which others work."""
    estimate = np.array([[0.6, 0.0, 0.58, 0.02], [0.3, 0.5, -0.2, 0.0]])
    parts = IntervalMap(estimate, estimate - 0.1, estimate + 0.1, np.full((2, 4), 5))
    sites = (Site("mlp_out", 1, None, "subject_last"), Site("attn_out", 3, None, "last"))
    return c.DirectEffects(sites, parts, 5, 9, 3e-7)


def screened() -> Screening:
    """Twenty places: of four candidates two are strong, of six audited one is (missed, and of the other sign)."""
    sites = [Site(component, layer, None, "last") for component in ("attn_out", "mlp_out") for layer in range(LAYERS)]
    sites += [Site("head_out", layer, head, "subject_last") for layer in range(2) for head in range(4)]
    exact = np.full(len(sites), np.nan)
    exact[:4] = 0.31, 0.02, 0.6, -0.01
    audited = np.zeros(len(sites), dtype=bool)
    audited[[5, 7, 9, 11, 13, 15]] = True
    exact[audited] = 0.01, 0.02, 0.0, -0.03, 0.01, -0.25
    return Screening(
        tuple(sites), np.linspace(0.2, 0.01, len(sites)), exact, 4, audited, 0.1, "attribution", "denoise", 18, 9, 6
    )


def matrix() -> Robustness:
    """A choice that agrees, one that disagrees, and one with too few facts to tell."""
    rng = np.random.default_rng(4)
    usual = rng.normal(0, 0.1, (FACTS, LAYERS, len(EVERY_ROLE))) + np.linspace(0, 1, LAYERS)[:, None]
    changes = {"token": usual, "mean": usual + 0.01, "zero": -usual, "resample": usual[:3]}
    names = tuple(f"fact-{number:02d}" for number in range(FACTS))
    nowhere = np.zeros((LAYERS, len(EVERY_ROLE)), dtype=bool)
    maps = [
        FactMap(
            corruption,
            metric,
            names[: len(change)],
            change,
            np.ones_like(change),
            nowhere,
            pairs=len(change),
            left_out={"corruption does not break it": FACTS - len(change)} if len(change) < FACTS else {},
        )
        for corruption, change in changes.items()
        for metric in ("logit_diff", "kl")
    ]
    return compare(maps, "mlp_out", "denoise", top=3)


def curve(best: int, seed: int) -> c.TrainingCurve:
    rng = np.random.default_rng(seed)
    steps = range(0, 60 * 14, 60)
    train = [6.0 * np.exp(-step / 180) + 0.9 + rng.normal(0, 0.03) for step in steps]
    validation = [6.0 * np.exp(-step / 180) + 1.3 + max(0, step - best) * 0.001 for step in steps]
    points = tuple(c.CurvePoint(*p) for p in zip(steps, train, validation, strict=True))
    settings = {"learning_rate": "0.001", "weight_decay": "0.01", "patience": "3"}
    return c.TrainingCurve(points, best, True, 1600, settings)


def checkpoint(name: str, seed: int, kinds: tuple[c.KindResult, ...], training: c.TrainingCurve | None) -> c.Checkpoint:
    return c.Checkpoint(
        {"en": f"Configuration {name}", "ja": f"設定 {name}"},
        "gpt2-6x192",
        f"{seed:02x}" * 32,
        training,
        (
            c.KnownCount("definitional", True, 18, 24),
            c.KnownCount("definitional", False, 1, 12),
            c.KnownCount("associative", True, 18, 24),
        ),
        (
            c.Excluded("clean prompt answered wrong", 14, ("The drug valproate works mainly by blocking the",)),
            c.Excluded(
                "no partner of equal token count", 9, ("lacosamide-channel: the question has 14 tokens, no other",)
            ),
        ),
        (c.IdentityCheck("self-patch", 3.1e-7, 5e-5), c.IdentityCheck("full cut gives 1", 1.2e-6, 5e-5)),
        kinds,
    )


def replay() -> Replay:
    """A published table on one model: an identity, and a figure without a denominator."""
    shared = {"facts": ["one"], "gaps": np.array([0.003]), "answers_in_prompt": 1, "other_phrases": 1}
    rows = []
    for role, prints, change, full_cut in (("first-feed-forward", "Conv1D(nf=8, nx=32)", 0.0066, False),
                                           ("matrices", "Conv1D(nf=24, nx=8)", -0.0087, False),
                                           ("output-head", "Linear(8, 50)", 0.003, True)):  # fmt: skip
        evidence = ModuleEvidence(full_cut, changes=np.array([change]), tokens_alone=np.array([0.004]),
                                  random=np.array([-0.4, 1.7]), **shared)  # fmt: skip
        share = change / 0.003
        rows.append(PublishedRow(role, prints, "h.0", 1, 0.5, share, share, (-0.4, 0.6, 1.7),
                                 weigh(evidence, floor=0.5, seed=1)))  # fmt: skip
    asked = AskedQuestion("What is it? This.", "What is it? That.", "This.", "it", "that", 0.103, 0.1)
    table = PublishedTable(
        {"en": "Configuration I"}, "definitional", (asked,), 2, {"Linear": (1, 1), "Conv1D": (24, 4)}, tuple(rows)
    )
    asked_properly = AskedProperly({"en": "Configuration I"}, "definitional", 18, 36, "localised", "C", 0.004)
    return Replay((table,), (asked_properly,), 0.5)


def report_contents() -> c.ReportContents:
    unanswered = c.KindResult("associative", 0, 0, np.nan, np.nan, (), (), NOTHING)
    first = (kind("definitional", LOCALISED, 1, 1.0), kind("associative", UNDETERMINED, 2, 0.6))
    second = (kind("definitional", UNDETERMINED, 3, 0.7), unanswered)
    both = [checkpoint("I", 10, first, curve(480, 1)), checkpoint("II", 20, second, curve(540, 2))]
    return c.ReportContents(
        {"en": "Epilepsy knowledge in two small models", "ja": "二つの小型モデルにおけるてんかんの知識"},
        {"en": "Epilepsy", "ja": "てんかん"},
        "en",
        c.Provenance(
            "ab" * 32, 42, "epilepsy", "cd" * 32, "patchlight run studies/demo.yaml",
            {"patchlight": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}, "2026-11-24",
        ),
        "logit_diff",
        "logits",
        0.5,
        0.95,
        tuple(both),
        ("joint-effects", "direct-and-indirect", "replication", "edits"),
        replay(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def contents() -> c.ReportContents:
    return report_contents()


@pytest.fixture(scope="session")
def hostile(contents: c.ReportContents) -> c.ReportContents:
    """The same contents with a script payload in every text that a person can write."""
    payload = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}'
    point = contents.checkpoints[0]
    result = point.kinds[0]
    one = dataclasses.replace(
        result.examples[0], fact=payload, clean=payload, corrupted=payload + "b", correct=payload, wrong=payload,
        words=(payload,) * len(result.examples[0].words),
    )  # fmt: skip
    return dataclasses.replace(
        contents,
        title={"en": payload},
        pack_title={"ja": payload},
        provenance=dataclasses.replace(
            contents.provenance, command=payload, pack_id=payload, versions={payload: payload}
        ),
        checkpoints=(
            dataclasses.replace(
                point,
                name={"en": payload, "ja": payload},
                model=payload,
                excluded=(c.Excluded(payload, 1, (payload,)),),
                checks=(c.IdentityCheck(payload, 0.0, 1.0),),
                kinds=(dataclasses.replace(result, kind=payload, examples=(one,)),),
            ),
        ),
    )


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request, contents) -> Page:
    return Page(render(contents, request.param))


@pytest.fixture(scope="module")
def english(contents) -> Page:
    return Page(render(contents, "en"))
