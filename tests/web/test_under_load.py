"""The promises R3 and R4 over HTTP: a killed server loses and doubles nothing; decisions of one moment are all kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import Engine, select

from patchlight.review import audit, sessions
from patchlight.review.people import accept, first_token, invite
from patchlight.review.queue import put
from patchlight.review.records import Person
from patchlight.store import review as tables
from patchlight.store.review import open_review
from tests.review.conftest import made_evidence
from tests.web.conftest import PASSWORD

KILLS, REVIEWERS, EACH = 5, 8, 15


class Server:
    """A real server over a workspace, which can be killed as by a power cut."""

    def __init__(self, workspace: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        arguments = [sys.executable, "-m", "tests.web.server", str(workspace), str(self.port)]
        self.parent = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.number = 0
        self.start()

    def start(self) -> None:
        assert self.parent.stdin is not None and self.parent.stdout is not None
        self.parent.stdin.write("start\n")
        self.parent.stdin.flush()
        self.number = int(self.parent.stdout.readline())

    def kill(self) -> None:
        os.kill(self.number, signal.SIGKILL)
        while True:
            try:
                os.kill(self.number, 0)
            except ProcessLookupError:
                return
            time.sleep(0.01)

    def end(self) -> None:
        self.kill()
        self.parent.communicate()

    def browser(self, token: str) -> httpx2.Client:
        address = f"http://127.0.0.1:{self.port}"
        cookies = {"patchlight_session": token}
        return httpx2.Client(base_url=address, cookies=cookies, headers={"Origin": address}, timeout=60, verify=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.end()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = open_review(tmp_path)
    yield engine
    engine.dispose()


def reviewers(database: Engine, number: int) -> list[Person]:
    admin = accept(database, first_token(database) or "", "root", PASSWORD)
    return [accept(database, invite(database, admin, "reviewer"), f"reviewer {n}", PASSWORD) for n in range(number)]


def fields_of(page: str) -> dict[str, str]:
    form = page.partition('class="decision"')[2]
    found = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
    assert "form" in found, page
    return found | {"word": "accept", "confidence": "4"}


def kept(database: Engine) -> list[tuple[str, int, str]]:
    with database.begin() as connection:
        chosen = select(tables.decisions.c.candidate, tables.decisions.c.person, tables.decisions.c.form)
        return [tuple(row) for row in connection.execute(chosen)]


def patiently(ask: httpx2.Client, method: str, path: str, data: dict[str, str] | None = None) -> httpx2.Response:
    """The answer, however often the server is killed before it comes; the same form is sent again."""
    for _ in range(600):
        with contextlib.suppress(httpx2.TransportError):
            return ask.request(method, path, data=data)
        time.sleep(0.05)
    raise TimeoutError(path)


def review(server: Server, token: str) -> list[tuple[str, str]]:
    """The decisions of one reviewer that the server has acknowledged: (candidate, form)."""
    acknowledged: list[tuple[str, str]] = []
    with server.browser(token) as browser:
        csrf = re.search(r'name="csrf" value="(\w+)"', patiently(browser, "GET", "/queue").text)
        assert csrf
        answer = patiently(browser, "POST", "/queue/next", {"csrf": csrf[1]})
        while len(acknowledged) < EACH:
            path = answer.headers["location"]
            fields = fields_of(patiently(browser, "GET", path.replace("/candidates/", "/form/")).text)
            answer = patiently(browser, "POST", f"{path}/decision", fields)
            assert answer.status_code == 303, answer.text
            acknowledged.append((path.removeprefix("/candidates/"), fields["form"]))
    return acknowledged


@pytest.mark.slow
def test_a_server_killed_under_reviewers_loses_and_doubles_no_acknowledged_decision(
    database: Engine, server: Server
) -> None:
    put(database, [made_evidence(number) for number in range(2 * REVIEWERS * EACH)], by="test")
    tokens = [sessions.begin(database, each) for each in reviewers(database, REVIEWERS)]
    done = threading.Event()
    kills = 0

    def cut() -> None:
        nonlocal kills
        for share in range(1, KILLS + 1):
            while len(kept(database)) < share * REVIEWERS * EACH / (KILLS + 1) and not done.is_set():
                time.sleep(0.02)
            if not done.is_set():
                server.kill()
                kills += 1
                server.start()

    killer = threading.Thread(target=cut)
    killer.start()
    try:
        with ThreadPoolExecutor(REVIEWERS) as pool:
            acknowledged = [each for found in pool.map(lambda token: review(server, token), tokens) for each in found]
    finally:
        done.set()
        killer.join()
    assert kills == KILLS
    stored = Counter((candidate, form) for candidate, _, form in kept(database))
    assert stored == Counter(acknowledged)
    assert len(acknowledged) == REVIEWERS * EACH
    assert max(Counter((candidate, person) for candidate, person, _ in kept(database)).values()) == 1
    assert audit.verify(database) == []


@pytest.mark.slow
def test_two_hundred_decisions_of_one_moment_on_one_candidate_are_all_kept_and_a_stale_form_gets_409(
    database: Engine, server: Server
) -> None:
    evidence = made_evidence(0)
    put(database, [evidence], by="test")
    tokens = [sessions.begin(database, each) for each in reviewers(database, 200)]
    with contextlib.ExitStack() as open_ones:
        browsers = [open_ones.enter_context(server.browser(token)) for token in tokens]
        path = f"/candidates/{evidence.candidate}/decision"
        shown = [fields_of(each.get(f"/form/{evidence.candidate}").text) for each in browsers]
        same_moment = threading.Barrier(len(browsers))

        def decide(number: int) -> int:
            same_moment.wait()
            return browsers[number].post(path, data=shown[number]).status_code

        with ThreadPoolExecutor(len(browsers)) as pool:
            statuses = Counter(pool.map(decide, range(len(browsers))))
        stale = browsers[0].post(path, data=shown[0] | {"form": "another", "word": "reject", "text": "the newer word"})
    assert statuses == {303: 200}
    assert {person for _, person, _ in kept(database)} == set(range(2, 202))
    assert stale.status_code == 409
    assert "the newer word" in stale.text and "Accept" in stale.text and "Reject" in stale.text
    assert len(kept(database)) == 200
    assert audit.verify(database) == []
