"""What tests of the workbench share: an app over a new workspace, and browsers (clients) of people of each role."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from httpx2 import Response
from starlette.testclient import TestClient

from patchlight.review.people import accept, first_token, invite, people
from patchlight.review.queue import put
from patchlight.review.records import Role
from patchlight.web.access import Database, Who, allow, new_router
from patchlight.web.app import all_routers, create_app
from patchlight.web.deciding import decision_form
from patchlight.web.render import page
from tests.review.conftest import made_evidence, quick_hashes  # noqa: F401  (a fixture that holds for all tests here)

ORIGIN = "http://127.0.0.1"
PASSWORD = "a long password"


class Browser(TestClient):
    """A client that sends forms as a browser does: from a page, with what the page put in them."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, base_url=ORIGIN, headers={"Origin": ORIGIN}, follow_redirects=False)

    def form(self, page: str) -> str:
        """The secret of the forms on a page."""
        found = re.search(r'name="csrf" value="(\w+)"', self.get(page).text)
        assert found, f"no form on {page}"
        return found[1]

    def submit(self, path: str, page: str = "/queue", **fields: object) -> Response:
        """A form sent from a page."""
        return self.post(path, data={"csrf": self.form(page), **fields})

    def sign_in(self, name: str, password: str = PASSWORD) -> Response:
        return self.submit("/sign-in", "/sign-in", name=name, password=password)

    def decide(self, candidate: str, word: str = "accept", **changes: object) -> Response:
        """The decision form of the candidate's page, filled."""
        return self.post(f"/candidates/{candidate}/decision", data=self.shown(candidate) | {"word": word} | changes)

    def shown(self, candidate: str) -> dict[str, object]:
        """The hidden fields of the decision form as the page shows it, and the confidence chosen beforehand."""
        form = self.get(f"/form/{candidate}").text.partition('class="decision"')[2]
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form)) | {"confidence": 3}


form_alone = new_router()


@form_alone.get("/form/{candidate}", dependencies=[allow("decide")])
def form(request: Request, database: Database, who: Who, candidate: str) -> HTMLResponse:
    """The decision form without the evidence, which the evidence of these tests is too small to draw."""
    return page(request, "_decision_form.html.jinja", form=decision_form(database, who, candidate))


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = create_app(tmp_path, routers=[*all_routers(), form_alone])
    yield made
    made.state.database.dispose()


SignedIn = Callable[..., Browser]


@pytest.fixture
def signed_in(app: FastAPI) -> SignedIn:
    """Makes a browser in which a new person of a role is signed in."""

    def made(role: Role, name: str = "") -> Browser:
        database = app.state.database
        token = first_token(database)
        admin = accept(database, token, "root", PASSWORD) if token else people(database)[0]
        name = name or f"{role} {len(people(database))}"
        accept(database, invite(database, admin, role), name, PASSWORD)
        browser = Browser(app)
        assert browser.sign_in(name).status_code == 303
        return browser

    return made


@pytest.fixture
def candidates(app: FastAPI) -> list[str]:
    """Three candidates in the queue, the last of them a decoy."""
    evidence = [made_evidence(number) for number in range(3)]
    put(app.state.database, evidence, by="test", decoys={evidence[2].candidate})
    return [each.candidate for each in evidence]
