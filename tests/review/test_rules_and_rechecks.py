from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from patchlight.cli.main import execute
from patchlight.errors import InputError
from patchlight.model.digest import model_digest
from patchlight.model.load import load_model, random_init, save_model
from patchlight.packs.read import read_pack
from patchlight.pairs.align import align
from patchlight.pairs.build import build_pairs
from patchlight.pairs.screen import known_facts, screen
from patchlight.review.audit import entries, verify
from patchlight.review.decisions import decide
from patchlight.review.queue import evidence_of, item, put
from patchlight.review.recheck import measure, moved, pairs_in, recheck, rechecks
from patchlight.review.records import Evidence, Rule
from patchlight.review.rules import activate, draft_rule, expire, rule, rules
from patchlight.store.review import open_review
from patchlight.trace.patch import patch
from tests.review.conftest import Join, filled, made_evidence

YEAR = 365 * 86_400.0


@pytest.fixture(scope="module")
def finding(taught: Path) -> Evidence:
    """A finding of the taught model, with the intervals that this model really has there."""
    model = load_model(taught / "model")
    pairs = [
        pair
        for pair in build_pairs(read_pack(taught / "pack.yaml"), model.tokenizer, seed=1).pairs
        if pair.kind == "definitional"
    ]
    known = known_facts(screen(model, pairs))
    rows = [{**vars(pair), "held_out": True} for pair in pairs if pair.fact in known]
    place = {"site": "blocks.0.mlp_out@subject_last", "component": "mlp_out", "layer": 0, "role": "subject_last"}
    where = {"study_id": "animals", "checkpoint": "base", "model": model_digest(taught / "model"), "domain": "animals"}
    how = {"kind": "definitional", "metric": "logit_diff", "gap_floor": 0.5, "pairs": rows}
    nothing = {"estimate": 0.0, "low": -9.0, "high": 9.0, "n": 0}
    content = {**place, **where, **how, "recovery": nothing, "damage": nothing}
    now = measure(model, Evidence(content)).now
    return Evidence({**content, "recovery": dict(now["recovery"]), "damage": dict(now["damage"])})


def _active_rule(database: Engine, join: Join, finding: Evidence) -> Rule:
    put(database, [finding], by="a test")
    one, lead = join(database, "reviewer"), join(database, "lead")
    for person in (one, lead):
        decide(database, person, filled(database, finding.candidate))
    made = draft_rule(
        database,
        lead,
        candidates=[finding.candidate],
        statement="Colours come through here",
        action="require human check",
        owner="the clinic",
        expires=time.time() + YEAR,
    )
    assert made.state == "draft"
    return activate(database, lead, made.id)


def test_a_measure_is_the_share_that_plain_patches_give(taught: Path, finding: Evidence) -> None:
    model = load_model(taught / "model")
    checked = measure(model, finding)
    pairs = screen(model, pairs_in(finding.content)).kept
    given_back, gaps = [], []
    for pair in pairs:
        at = align(model.tokenizer, pair).roles.index("subject_last")
        found = patch(model, [pair], [f"blocks.0.mlp_out@{at}"])
        given_back.append(found.values[0, 0] - found.corrupted[0])
        gaps.append(found.clean[0] - found.corrupted[0])
    assert checked.now["recovery"]["estimate"] == pytest.approx(np.sum(given_back) / np.sum(gaps), rel=1e-4)


def test_the_sites_of_a_set_are_patched_together(taught: Path, finding: Evidence) -> None:
    model, sites = load_model(taught / "model"), ["blocks.0.mlp_out@subject_last", "blocks.1.attn_out@last"]
    content = {**finding.content, "site": " + ".join(sites), "component": "mlp_out", "layer": None, "role": None}
    pairs = screen(model, pairs_in(content)).kept
    for direction in ("denoise", "noise"):
        effects, found = moved(model, pairs, content, direction), []
        for pair in pairs:
            roles = align(model.tokenizer, pair).roles
            cells = [f"blocks.0.mlp_out@{roles.index('subject_last')}", f"blocks.1.attn_out@{len(roles) - 1}"]
            values = patch(model, [pair], [cells], direction=direction)
            away = values.values[0, 0] - values.corrupted[0], values.clean[0] - values.values[0, 0]
            found.append(away[direction == "noise"])
        assert effects == pytest.approx(found, rel=1e-3, abs=1e-4)
    donors = [None] + [pair.corrupted for pair in pairs[1:]]
    assert np.isnan(moved(model, pairs, content, "denoise", donors)[0])


def test_a_rule_holds_on_its_own_model_and_fails_on_one_that_knows_nothing(
    database: Engine, join: Join, taught: Path, finding: Evidence
) -> None:
    model = load_model(taught / "model")
    active = _active_rule(database, join, finding)
    engineer = join(database, "engineer")
    [held] = recheck(database, model, "another hash", [active], by=engineer)
    assert (held.outcome, rule(database, active.id).state) == ("held", "active")
    assert rule(database, active.id).models == (finding.content["model"], "another hash")
    [failed] = recheck(database, random_init(model, seed=0), "a third", [active], by=engineer)
    assert (failed.outcome, failed.findings[0].why) == ("failed", "knows-too-few")
    assert rule(database, active.id).state == "failed"
    assert item(database, finding.candidate).standing == "open"
    assert evidence_of(database, finding.candidate).content["recheck"]["model"] == "a third"
    assert [check.outcome for check in rechecks(database, active.id)] == ["held", "failed"]
    assert verify(database) == []


@pytest.mark.parametrize(
    ("low", "high", "outcome", "why"),
    [(5.0, 6.0, "failed", "weaker"), (-6.0, -5.0, "stale", "stronger")],
)
def test_intervals_that_do_not_meet_decide(
    taught: Path, finding: Evidence, low: float, high: float, outcome: str, why: str
) -> None:
    recorded = {"estimate": (low + high) / 2, "low": low, "high": high, "n": 12}
    checked = measure(load_model(taught / "model"), Evidence({**finding.content, "damage": recorded}))
    assert (checked.outcome, checked.why) == (outcome, why)


def test_a_recheck_that_breaks_off_changes_nothing(
    database: Engine, join: Join, taught: Path, finding: Evidence
) -> None:
    active = _active_rule(database, join, finding)
    before = entries(database)
    broken = Rule(**{**vars(active), "id": 99})
    with pytest.raises(Exception, match=r"FOREIGN KEY|no rule"):
        recheck(database, load_model(taught / "model"), "x", [active, broken], by=join(database, "engineer"))
    assert [each.action for each in entries(database)][len(before) :] == ["person.invited", "person.joined"]
    assert rechecks(database, active.id) == []


def test_a_rule_needs_accepted_findings_of_one_scope_and_an_expiry(either: Engine, join: Join) -> None:
    made = [made_evidence(0, pairs=[]), made_evidence(1, pairs=[], kind="associative")]
    put(either, made, by="a test")
    one, lead = join(either, "reviewer"), join(either, "lead")
    asked = {"statement": "s", "action": "watch", "owner": "o", "expires": time.time() + YEAR}
    with pytest.raises(InputError, match="review-not-accepted"):
        draft_rule(either, lead, candidates=[made[0].candidate], **asked)
    for each in made:
        for person in (one, lead):
            decide(either, person, filled(either, each.candidate))
    with pytest.raises(InputError, match="review-rule-scope"):
        draft_rule(either, lead, candidates=[each.candidate for each in made], **asked)
    with pytest.raises(InputError, match="expiry is past"):
        draft_rule(either, lead, candidates=[made[0].candidate], **{**asked, "expires": 1.0})
    with pytest.raises(InputError, match="review-not-allowed"):
        draft_rule(either, one, candidates=[made[0].candidate], **asked)
    drafted = draft_rule(either, lead, candidates=[made[0].candidate], **asked, recheck_days=30)
    activate(either, lead, drafted.id)
    assert expire(either) == []
    assert [each.why for each in expire(either, time.time() + 31 * 86_400)] == ["too long without a re-check"]
    assert [each.state for each in rules(either)] == ["stale"]
    assert activate(either, lead, drafted.id).state == "active"
    assert [each.why for each in expire(either, time.time() + 2 * YEAR)] == ["past its expiry"]


def test_the_command_stops_a_pipeline_where_a_rule_fails(
    tmp_path: Path, join: Join, taught: Path, finding: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    database = open_review(workspace)
    _active_rule(database, join, finding)
    where = ["--workspace", str(workspace)]
    assert execute(["recheck", "--model", str(taught / "model"), *where]) == 0
    assert "held (as-recorded" in capsys.readouterr().out
    save_model(random_init(load_model(taught / "model"), seed=0), tmp_path / "random")
    assert execute(["recheck", "--model", str(tmp_path / "random"), *where, "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "rule-failed"
    assert execute(["rules", *where]) == 0
    assert "1 failed: require human check" in capsys.readouterr().out
    assert execute(["audit", "verify", *where, "--head", f"999:{'0' * 64}"]) == 6
    assert "truncated" in capsys.readouterr().err
    database.dispose()
    shutil.rmtree(workspace)
