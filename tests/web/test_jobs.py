"""Commands in processes of their own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from patchlight.errors import InputError
from patchlight.web.jobs import Jobs, review_place


def test_a_job_runs_a_command_once_at_a_time_and_keeps_what_it_said(tmp_path: Path) -> None:
    jobs = Jobs()
    job = jobs.start("status", "Ann", ["status", "--workspace", str(tmp_path / "nowhere"), "--lang", "en"])
    with pytest.raises(InputError, match="running already"):
        jobs.start("status", "Ren", ["status"])
    until = time.monotonic() + 60
    while job.code is None and time.monotonic() < until:
        time.sleep(0.05)
    assert job.code == 3
    assert "store-no-workspace" in job.text
    assert [each.by for each in jobs.listed("stat")] == ["Ann"]
    jobs.end()


def test_no_job_outlives_the_server() -> None:
    jobs = Jobs()
    job = jobs.start("validate", "Ann", ["validate", "/dev/stdin"])
    jobs.end()
    assert job.code is not None


def test_a_database_url_is_in_no_argument_that_others_can_read(tmp_path: Path) -> None:
    url = "postgresql+psycopg://ann:secret@db/review"
    arguments, environment = review_place(tmp_path, url)
    assert "secret" not in " ".join(arguments)
    assert environment == {"PATCHLIGHT_DATABASE": url}
