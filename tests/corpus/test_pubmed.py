"""Fetching from PubMed, against a server of our own: nothing lost, nothing twice, whatever the server does."""

from __future__ import annotations

import email.utils
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from patchlight.corpus.entrez import Client
from patchlight.corpus.files import read_documents
from patchlight.corpus.pubmed import BATCH, Download, download
from patchlight.errors import EnvironmentProblem, InputError
from patchlight.run.progress import Progress
from tests.corpus.entrez_server import PubMed, Reply, article, serve

BROKEN = [
    Reply("busy", status=429, headers={"Retry-After": "0"}),
    Reply("down", status=500),
    Reply("<?xml version='1.0'?><PubmedArticleSet><PubmedArticle>"),
    Reply("not XML & not records"),
    lambda right: replace(right, cut=len(right.body) // 2),
]


def days(records: int, each: int = 7) -> dict[str, str]:
    """PMIDs with publication dates, newest first, `each` on the same day."""
    return {
        str(40_000_000 - n): f"{2024 - n // each // 336}/{12 - n // each // 28 % 12:02d}/01" for n in range(records)
    }


@pytest.fixture
def pubmed() -> Iterator[PubMed]:
    with serve(PubMed(days(450))) as server:
        yield server


def fetch(pubmed: PubMed, folder: Path, most: int | None = None, notes: list[str] | None = None) -> Download:
    said = [] if notes is None else notes
    client = Client("a@example.org", said.append, api_key="key", base_url=pubmed.url, first_wait=0.01)
    return download("epilepsy OR EEG", folder, client, most=most, progress=Progress())


def pmids(folder: Path) -> list[str]:
    return [document.id for document in read_documents([folder])]


def test_every_record_is_fetched_once_in_the_order_of_the_search(pubmed: PubMed, tmp_path: Path) -> None:
    got = fetch(pubmed, tmp_path)
    assert (got.found, got.listed, got.missing) == (450, 450, ())
    documents = list(read_documents([tmp_path]))
    assert [document.id for document in documents] == list(pubmed.dates)
    assert documents[0].text == "AIM: We saw 40000000 seizures & more.\nEND: 105."
    assert documents[0].title == "Title of 40000000"
    assert pubmed.counts() == {"esearch": 1, "efetch": 3}
    for _, asked, _ in pubmed.asked:
        assert (asked["email"], asked["api_key"], asked["tool"]) == ("a@example.org", "key", "patchlight")


def test_only_as_many_as_asked_for_are_fetched(pubmed: PubMed, tmp_path: Path) -> None:
    assert fetch(pubmed, tmp_path, most=230).listed == 230
    assert pmids(tmp_path) == list(pubmed.dates)[:230]
    assert [asked["retmax"] for utility, asked, _ in pubmed.asked if utility == "efetch"] == ["200", "30"]


@pytest.mark.parametrize("utility", ["esearch", "efetch"])
def test_a_server_in_trouble_is_asked_again(pubmed: PubMed, tmp_path: Path, utility: str) -> None:
    notes: list[str] = []
    pubmed.trouble[utility] = list(BROKEN)
    assert fetch(pubmed, tmp_path, notes=notes).missing == ()
    assert pmids(tmp_path) == list(pubmed.dates)
    assert len(notes) == len(BROKEN)


def test_a_search_that_does_not_name_all_it_finds_is_asked_again_and_then_refused(
    pubmed: PubMed, tmp_path: Path
) -> None:
    def cut_short(right: Reply) -> Reply:
        listed = right.body[: right.body.index("<Id>", 2000)]
        return replace(right, body=f"{listed}</IdList></eSearchResult>")

    pubmed.trouble["esearch"] = [cut_short]
    assert fetch(pubmed, tmp_path / "once").listed == 450
    pubmed.trouble["esearch"] = [cut_short] * 6
    with pytest.raises(EnvironmentProblem, match="finds 450 records, but names") as refused:
        fetch(pubmed, tmp_path / "always")
    assert refused.value.code == "pubmed-no-answer"


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for(pubmed: PubMed, tmp_path: Path, as_date: bool) -> None:
    """Seconds after the reply, or a date, which is later than a second trial would be without it."""
    date = int(time.time()) + 4
    due = time.monotonic() + date - time.time()
    said = email.utils.formatdate(date, usegmt=True) if as_date else "2"
    pubmed.trouble["efetch"] = [Reply("busy", status=429, headers={"Retry-After": said})]
    fetch(pubmed, tmp_path, most=5)
    first, second = [at for utility, _, at in pubmed.asked if utility == "efetch"]
    assert second >= (due if as_date else first + 2) - 0.1


def test_requests_keep_the_polite_distance(pubmed: PubMed, tmp_path: Path) -> None:
    client = Client("a@example.org", print, base_url=pubmed.url)
    download("epilepsy", tmp_path, client, most=450, progress=Progress())
    times = [at for _, _, at in pubmed.asked]
    assert min(after - before for before, after in pairwise(times)) > 1 / 3
    assert not any("api_key" in asked for _, asked, _ in pubmed.asked)


def test_records_that_are_gone_when_fetched_are_named(pubmed: PubMed, tmp_path: Path) -> None:
    pubmed.gone = {"40000000", "39999700"}
    got = fetch(pubmed, tmp_path)
    assert set(got.missing) == pubmed.gone
    assert pmids(tmp_path) == [pmid for pmid in pubmed.dates if pmid not in pubmed.gone]


def test_records_that_the_history_leaves_out_are_fetched_by_pmid(pubmed: PubMed, tmp_path: Path) -> None:
    """The order of the history has changed since the search: what is asked for comes all the same, and only that."""
    shuffled = [lambda _: Reply(f"<PubmedArticleSet>{article('39999999')}{article('5')}</PubmedArticleSet>")]
    pubmed.trouble["efetch"] = list(shuffled)
    assert fetch(pubmed, tmp_path, most=10).missing == ()
    assert sorted(pmids(tmp_path), reverse=True) == list(pubmed.dates)[:10]


@pytest.mark.parametrize("status", [200, 400])
def test_an_expired_history_is_replaced_by_pmids(pubmed: PubMed, tmp_path: Path, status: int) -> None:
    notes: list[str] = []
    expired = "<?xml version='1.0'?><eFetchResult><ERROR>Unable to obtain query #1</ERROR></eFetchResult>"
    pubmed.trouble["efetch"] = [Reply(expired, status=status)]
    fetch(pubmed, tmp_path, notes=notes)
    assert pmids(tmp_path) == list(pubmed.dates)
    assert (pubmed.counts()["efetch"], len(notes)) == (4, 1)  # asked once in vain, not once a batch


def test_more_than_a_search_gives_is_sliced_by_date(tmp_path: Path) -> None:
    """21,000 records over 16 months: each slice fits, all are listed, newest first."""
    with serve(PubMed(days(21_000, each=50))) as pubmed:
        # Fetching 105 batches is the other tests' work; here the first must do.
        pubmed.trouble["efetch"] = [Reply("no such database", status=403)] * 2
        with pytest.raises(InputError, match="pubmed-refused"):
            fetch(pubmed, tmp_path)
        counts = [len(found) for found in pubmed.history.values()]
        from patchlight.corpus.fetched import read_search

        assert read_search(tmp_path)["pmids"] == list(pubmed.dates)
        assert max(counts[1:]) > 9_999 >= max(len(part["found"]["pmids"]) for part in read_search(tmp_path)["slices"])


def test_a_day_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with serve(PubMed(dict.fromkeys(map(str, range(1, 10_050)), "2024/01/01"))) as pubmed:
        with pytest.raises(InputError, match="pubmed-day-too-large") as refused:
            fetch(pubmed, tmp_path)
        assert "2024/01/01" in refused.value.what


def test_going_on_fetches_only_what_is_missing_or_damaged(pubmed: PubMed, tmp_path: Path) -> None:
    pubmed.trouble["efetch"] = [lambda right: right, *[Reply("down", status=503)] * 6]
    with pytest.raises(EnvironmentProblem, match="pubmed-no-answer"):
        fetch(pubmed, tmp_path)
    with pytest.raises(InputError, match="pubmed-unfinished"):
        pmids(tmp_path)
    pubmed.asked.clear()
    fetch(pubmed, tmp_path)
    assert pubmed.counts() == {"efetch": 2}
    raw = tmp_path / "raw" / "000002-1.xml.gz"
    raw.write_bytes(raw.read_bytes()[:-9])
    pubmed.asked.clear()
    fetch(pubmed, tmp_path)
    assert pubmed.counts() == {"efetch": 1}
    assert pmids(tmp_path) == list(pubmed.dates)


def test_another_search_in_the_same_folder_and_an_empty_one_are_refused(pubmed: PubMed, tmp_path: Path) -> None:
    fetch(pubmed, tmp_path / "one", most=5)
    with pytest.raises(InputError, match="pubmed-other-search"):
        fetch(pubmed, tmp_path / "one", most=6)
    pubmed.dates = {}
    with pytest.raises(InputError, match="pubmed-nothing-found"):
        fetch(pubmed, tmp_path / "two")


def test_killed_at_any_moment_the_same_command_ends_with_the_same_records(pubmed: PubMed, tmp_path: Path) -> None:
    """The command line itself, killed with SIGKILL after more and more time, then left alone."""
    pubmed.dates = days(9 * BATCH)
    command = [
        sys.executable,
        "-m",
        "patchlight.cli.main",
        "corpus",
        "pubmed",
        "epilepsy",
        "--out",
        str(tmp_path / "f"),
    ]
    command += ["--email", "a@example.org", "--api-key", "secret", "--base-url", pubmed.url, "--json"]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    for records in (1, 4, 7):
        before = len(pubmed.asked)
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(pubmed.asked) < before + records and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert '"listed": 1800' in ended.stdout
    assert pmids(tmp_path / "f") == list(pubmed.dates)
    assert not [file for file in (tmp_path / "f").rglob("*") if file.is_file() and b"secret" in file.read_bytes()]
