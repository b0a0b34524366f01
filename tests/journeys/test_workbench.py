"""People at the workbench, in a real browser, over the results of a real study."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from patchlight.review.decisions import standing_decisions
from patchlight.review.people import accept, first_token, invite
from patchlight.review.queue import item, items
from patchlight.review.records import Role
from patchlight.review.rules import rules
from patchlight.store.review import open_review
from tests.conftest import taught_texts, teach
from tests.journeys.browser import PASSWORD, Visitor, chromium, serving

pytestmark = pytest.mark.slow
THRESHOLDS = ("judge.evidence", "judge.reasons", "study.nulls", "study.reviewing")
PAGES = (
    "/studies",
    "/studies/animals",
    "/studies/animals/run",
    "/studies/animals/estimate",
    "/queue",
    "/rules",
    "/rechecks",
    "/rules/new",
    "/agreement",
    "/audit",
)


@pytest.fixture(scope="module")
def finished(new_study: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study whose candidates are in the queue; twelve facts suffice to name places."""
    from patchlight.cli.main import execute

    file, workspace = new_study(), tmp_path_factory.mktemp("workbench")
    file.write_text(file.read_text(encoding="utf-8").replace("sweep: {", "sweep: {direct: true, "), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for module in THRESHOLDS:
            patch.setattr(f"patchlight.{module}.FACTS_IN_EACH_HALF", 5)
        patch.setattr("patchlight.judge.evidence.LEVEL", 0.3)
        assert execute(["run", str(file), "--workspace", str(workspace)]) == 0
        assert execute(["review", "--workspace", str(workspace)]) == 0
        assert execute(["estimate", str(file), "--workspace", str(workspace), "--seconds", "0"]) == 0
    return workspace


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, before anybody has joined."""
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


@pytest.fixture
def database(workspace: Path) -> Iterator[Engine]:
    """Its review, with an admin, two reviewers and a lead."""
    engine = open_review(workspace)
    admin = accept(engine, str(first_token(engine)), "admin", PASSWORD)
    named: dict[str, Role] = {"reviewer": "reviewer", "second reviewer": "reviewer", "lead": "lead"}
    for name, role in named.items():
        accept(engine, invite(engine, admin, role), name, PASSWORD)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def address(workspace: Path, database: Engine) -> Iterator[str]:
    with serving(workspace) as running:
        yield running


def test_from_the_first_start_to_the_first_decision(browser: Any, workspace: Path) -> None:
    command = [sys.executable, "-u", "-m", "patchlight.cli.main", "serve", "--workspace", str(workspace), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    ) as server:
        assert server.stdout is not None
        try:
            link = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+/join/\S+", line)))
            address = link.partition("/join/")[0]
            admin = Visitor(browser, address)
            admin.join(link, "Ada")
            admin.open("/people")
            admin.page.click('form[action="/people/invitations"] button')
            invitation = re.search(r"http://\S+?/join/[\w-]+|/join/[\w-]+", admin.page.inner_text("main"))
            assert invitation is not None
            path = "/join/" + invitation[0].partition("/join/")[2]
            reviewer = Visitor(browser, address)
            reviewer.join(address + path, "Ben")
            reviewer.page.click('header a[href="/queue"]')
            reviewer.page.click('form[action="/queue/next"] button')
            candidate = reviewer.page.url.rpartition("/")[2]
            assert reviewer.page.is_visible("text=2. The effect, against the controls")
            reviewer.page.click('button[value="accept"]')
            reviewer.page.wait_for_load_state()
            assert candidate not in reviewer.page.url
            assert admin.complaints == reviewer.complaints == []
        finally:
            server.terminate()
    database = open_review(workspace)
    [decision] = standing_decisions(database, candidate)
    assert (decision.name, decision.word) == ("Ben", "accept")
    database.dispose()


def test_two_reviewers_disagree_and_a_lead_settles_it(browser: Any, address: str, database: Engine) -> None:
    candidate = items(database)[0].id
    first, second, lead = (Visitor(browser, address) for _ in range(3))
    for visitor, name in ((first, "reviewer"), (second, "second reviewer"), (lead, "lead")):
        visitor.sign_in(name)
    first.decide(candidate, "accept", "it lies far above")
    second.open(f"/candidates/{candidate}")
    assert "it lies far above" not in second.page.content()
    second.decide(candidate, "reject", "the control is wide")
    lead.open("/queue?standing=disputed")
    lead.page.click(f'a[href^="/candidates/{candidate}"]')
    seen = lead.page.inner_text("#main")
    assert "it lies far above" in seen
    assert "the control is wide" in seen
    lead.page.click('form[action$="/adjudication"] button[value="accept"]')
    lead.page.wait_for_url(re.compile("standing=disputed"))
    assert item(database, candidate).standing == "accepted"
    assert first.complaints == second.complaints == lead.complaints == []


def test_ten_candidates_are_judged_by_keyboard_alone(browser: Any, address: str, database: Engine) -> None:
    visitor = Visitor(browser, address)
    visitor.open("/sign-in")
    keys = visitor.page.keyboard
    visitor.page.wait_for_selector("#name:focus")
    for words in ("reviewer", PASSWORD):
        keys.type(words)
        keys.press("Tab")
    keys.press("Enter")
    visitor.page.wait_for_url("**/studies")
    _tab_to(visitor, "/queue")
    keys.press("Enter")
    visitor.page.wait_for_url("**/queue")
    visitor.access_key("n")
    seen = []
    for number in range(10):
        visitor.page.wait_for_url(lambda url: "/candidates/" in url and url not in seen)
        seen.append(visitor.page.url)
        visitor.access_key("a" if number % 2 else "r")
    visitor.page.wait_for_url(lambda url: url not in seen)
    judged = [each for each in items(database) if each.decided]
    assert len(judged) == 10
    words = [decision.word for each in judged for decision in standing_decisions(database, each.id)]
    assert words.count("accept") == words.count("reject") == 5
    assert visitor.complaints == []


def _tab_to(visitor: Visitor, link: str) -> None:
    """The focus is on that link, and can be seen."""
    for _ in range(30):
        visitor.page.keyboard.press("Tab")
        focus = visitor.page.evaluate(
            "() => [document.activeElement.getAttribute('href'), getComputedStyle(document.activeElement).outlineStyle]"
        )
        if focus[0] == link:
            assert focus[1] != "none"
            return
    raise AssertionError(f"{link} is not reached by Tab")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_no_page_has_a_fault_that_axe_finds(browser: Any, address: str, database: Engine, language: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing").Axe()
    lead, admin = Visitor(browser, address), Visitor(browser, address, color_scheme="dark")
    lead.sign_in("lead")
    admin.sign_in("admin")
    candidates = [items(database)[index].id for index in (0, 1)]
    lead.decide(candidates[1], "unsure")
    opened = [(lead, page) for page in (*PAGES, *(f"/candidates/{each}" for each in candidates))]
    found = []
    for visitor, path in [*opened, (admin, "/people"), (admin, "/studies"), (admin, f"/candidates/{candidates[0]}")]:
        visitor.open(f"{path}?lang={language}")
        result = axe.run(visitor.page)
        if result.violations_count:
            found.append(f"{path}: {result.generate_report()}")
    stranger = Visitor(browser, address)
    stranger.open(f"/sign-in?lang={language}")
    found += [axe.run(stranger.page).generate_report()] if axe.run(stranger.page).violations_count else []
    assert found == []
    assert lead.complaints == admin.complaints == stranger.complaints == []


def test_pages_fit_a_phone_and_the_report_opens_in_both_languages(browser: Any, address: str, database: Engine) -> None:
    visitor = Visitor(browser, address, viewport={"width": 390, "height": 844})
    visitor.sign_in("lead")
    for path in (*PAGES, f"/candidates/{items(database)[0].id}"):
        visitor.open(path)
        beyond = visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{path} is {beyond} pixels too wide"
    visitor.open("/studies/animals/report/report.html")
    assert visitor.page.evaluate("getComputedStyle(document.body).maxWidth") != "none"  # its own style is let in
    visitor.page.click('a[hreflang="ja"]')
    visitor.page.wait_for_url("**/report.ja.html")
    assert visitor.page.get_attribute("html", "lang") == "ja"
    assert visitor.complaints == []


def test_the_pictures_of_the_guide(browser: Any, address: str, database: Engine) -> None:
    """Light and dark, English and Japanese; with PATCHLIGHT_PICTURES=docs/images they are taken again."""
    strongest = next(each for each in items(database) if each.site == "blocks.0.mlp_out@last")
    for name, path, settings in (
        ("evidence", f"/candidates/{strongest.id}?lang=en", {"color_scheme": "light"}),
        ("evidence-ja-dark", f"/candidates/{strongest.id}?lang=ja", {"color_scheme": "dark"}),
        ("study", "/studies/animals?lang=en", {"color_scheme": "light"}),
        ("phone-ja", f"/candidates/{strongest.id}?lang=ja", {"viewport": {"width": 390, "height": 844}}),
    ):
        visitor = Visitor(browser, address, **{"viewport": {"width": 1100, "height": 1500}, **settings})
        visitor.sign_in("reviewer")
        visitor.open(path)
        assert visitor.page.is_visible("main h1")
        visitor.photograph(name)


def test_a_rule_is_made_and_fails_on_a_new_model(
    browser: Any, address: str, database: Engine, workspace: Path, taught: Path
) -> None:
    _model_with_the_first_mlp_switched_off(taught, workspace / "newer")
    finding = next(each for each in items(database) if each.site == "blocks.0.mlp_out@last")
    first, second, lead = (Visitor(browser, address) for _ in range(3))
    for visitor, name in ((first, "reviewer"), (second, "second reviewer"), (lead, "lead")):
        visitor.sign_in(name)
    first.decide(finding.id, "accept")
    second.decide(finding.id, "accept")
    lead.open("/rules/new")
    lead.page.check(f'input[value="{finding.id}"]')
    for field, words in (
        ("#statement", "Somebody checks these answers."),
        ("#owner", "Ada"),
        ("#expires", "2999-01-31"),
    ):
        lead.page.fill(field, words)
    lead.page.click('form[action="/rules"] button')
    lead.page.wait_for_url("**/rules/1")
    lead.page.click('form[action="/rules/1/activate"] button')
    lead.page.wait_for_load_state()
    assert rules(database)[0].state == "active"
    lead.open("/rechecks")
    lead.page.fill("#model", "newer")
    lead.page.click('form[action="/rechecks"] button')
    lead.page.wait_for_selector('a[href="/rules/1"]', timeout=120_000)
    lead.open("/rules/1")
    assert "failed" in lead.page.inner_text("dl.facts")
    assert rules(database)[0].state == "failed"
    assert item(database, finding.id).standing == "open"
    assert lead.complaints == []


def _model_with_the_first_mlp_switched_off(taught: Path, folder: Path) -> None:
    """A model that answers the same questions, and in which the accepted place can carry nothing."""
    from patchlight.model.load import load_model, save_model
    from patchlight.model.scratch import new_gpt2
    from patchlight.packs.read import read_pack

    model = new_gpt2(load_model(taught / "model").tokenizer, layers=3, width=48, heads=4, context=32, seed=3)
    mlp = model.hf.transformer.h[0].mlp
    off = mlp.register_forward_hook(lambda _module, _given, output: output * 0)
    teach(model, taught_texts(read_pack(taught / "pack.yaml")))
    off.remove()
    mlp.c_proj.weight.zero_()
    mlp.c_proj.bias.zero_()
    save_model(model, folder)
