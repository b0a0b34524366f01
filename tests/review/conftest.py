"""What tests of the review share: both databases, people of each role, evidence as a study makes it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from patchlight.review.people import accept, first_token, invite
from patchlight.review.queue import item
from patchlight.review.records import Draft, Evidence, Person, Role
from patchlight.store.review import open_review


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real argon2, with the least work: ten people join in most tests."""
    from argon2 import PasswordHasher

    monkeypatch.setattr("patchlight.review.people._hasher", PasswordHasher(1, 8, 1))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    """The review tables of a new workspace."""
    engine = open_review(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the tests."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        pytest.skip("there is no PostgreSQL server (initdb, postgres) on this machine")
    with tempfile.TemporaryDirectory(prefix="patchlight-pg-") as folder:
        data = Path(folder) / "data"
        other: dict[str, str] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            if "nobody" not in {each.pw_name for each in pwd.getpwall()}:
                pytest.skip("PostgreSQL does not run as root, and there is nobody else")
            other = {"user": "nobody"}
            shutil.chown(folder, "nobody")
        settings = ["initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(settings, check=True, capture_output=True, cwd=folder, **other)
        flags = ["-D", str(data), "-k", folder, "-c", "listen_addresses=", "-c", "max_connections=300"]
        with subprocess.Popen(
            ["postgres", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **other
        ) as server:
            try:
                _wait_until_ready(folder)
                yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
            finally:
                server.send_signal(2)  # fast shutdown: sessions are ended


def _wait_until_ready(folder: str) -> None:
    import time

    for _ in range(200):
        if subprocess.run(["pg_isready", "-q", "-h", folder], check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise TimeoutError("the PostgreSQL server did not start within 20 seconds")


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """The review tables, empty, once in SQLite and once in PostgreSQL."""
    if request.param == "sqlite":
        engine = open_review(tmp_path)
    else:
        url = request.getfixturevalue("postgres")
        _emptied(url)
        engine = open_review(url)
    yield engine
    engine.dispose()


def _emptied(url: str) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


Join = Callable[[Engine, Role], Person]


@pytest.fixture
def join() -> Join:
    """Makes a person of a role; the first of a database is its admin."""
    admins: dict[Engine, Person] = {}

    def joined(database: Engine, role: Role) -> Person:
        token = first_token(database)
        if token is not None:
            admins[database] = accept(database, token, "root", "a long password")
        admin = admins[database]
        return accept(database, invite(database, admin, role), f"{role} {os.urandom(4).hex()}", "a long password")

    return joined


def made_evidence(number: int = 0, **changes: object) -> Evidence:
    """Evidence of the candidate with that number."""
    named = {
        "study_id": "animals",
        "checkpoint": "base",
        "model": "m" * 64,
        "kind": "definitional",
        "domain": "animals",
    }
    site = {"site": f"blocks.{number}.mlp_out@subject_last", "component": "mlp_out", "layer": number}
    return Evidence({**named, **site, "recovery": {"estimate": 0.5}, "nulls": {}, **changes})


def filled(database: Engine, candidate: str, word: str = "accept", **changes: object) -> Draft:
    """A form filled on the evidence of now."""
    values = {"reason": "above-every-control", "confidence": 4, "form": os.urandom(8).hex()}
    missing = ("permuted",) if word == "needs more" else ()
    values |= {"evidence": item(database, candidate).evidence, "missing": missing}
    return Draft(**{"candidate": candidate, "word": word, **values, **changes})
