"""`patchlight serve` as a process, and a backup of what it serves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from patchlight.cli.main import execute
from patchlight.review.audit import head, verify
from patchlight.review.people import first_token
from patchlight.store.review import open_review


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = ["-m", "patchlight.cli.main", "serve", "--workspace", str(tmp_path / "workspace"), "--port", "0"]
    environment = {**os.environ, "LANG": "C.UTF-8"}
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def test_the_first_start_prints_a_link_that_works_and_ctrl_c_ends_the_server_cleanly(
    server: subprocess.Popen[str],
) -> None:
    assert server.stdout is not None
    said = ""
    while "/join/" not in said:
        line = server.stdout.readline()
        assert line, said
        said += line
    link = re.search(r"http://127\.0\.0\.1:\d+/join/[\w-]+", said)
    assert link
    page = httpx2.get(link[0])
    assert page.status_code == 200
    assert "server" not in page.headers
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0


def test_a_port_that_is_taken_and_an_address_without_an_origin_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--workspace", str(tmp_path / "workspace"), "--json"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert execute(["serve", "--port", str(taken.getsockname()[1]), *where]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "serve-port"
    assert execute(["serve", "--host", "0.0.0.0", *where]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "serve-origin"


def test_a_backup_is_whole_prints_its_head_and_writes_over_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = open_review(tmp_path)
    first_token(database)
    copy = tmp_path / "copies" / "monday.sqlite"
    command = ["audit", "backup", str(copy), "--workspace", str(tmp_path), "--json"]
    assert execute(command) == 0
    assert json.loads(capsys.readouterr().out)["head"] == head(database)
    kept = copy.read_bytes()
    first_token(database)
    assert execute(command) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "backup-exists"
    assert copy.read_bytes() == kept
    database.dispose()
    (tmp_path / "restored").mkdir()
    copy.rename(tmp_path / "restored" / "patchlight.sqlite")
    restored = open_review(tmp_path / "restored")
    assert verify(restored) == []
    restored.dispose()
