"""Stored files keep their bytes, and say so when they no longer do."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlight.store.files import FileDamaged, FileStore


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=5000))
def test_bytes_come_back_under_the_name_of_their_digest(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    store = FileStore(tmp_path_factory.mktemp("store"))
    digest = store.put(content)
    assert digest == hashlib.sha256(content).hexdigest()
    assert store.read(digest) == content


def test_the_same_content_is_stored_once_and_nothing_stays_in_scratch(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 3_000_000)
    assert store.put(source) == store.put(b"x" * 3_000_000)
    assert len([path for path in store.files.rglob("*") if path.is_file()]) == 1
    assert list(store.scratch.iterdir()) == []


def test_a_damaged_file_is_not_trusted_and_putting_it_again_heals_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    digest = store.put(b"truth")
    store.path(digest).write_bytes(b"trutH")
    assert not store.intact(digest)
    with pytest.raises(FileDamaged) as caught:
        store.read(digest)
    assert caught.value.code == "store-file-damaged"
    assert store.put(b"truth") == digest
    assert store.read(digest) == b"truth"


def test_a_folder_comes_back_with_its_names(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "inner").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "inner" / "weights.bin").write_bytes(b"\x00" * 100)
    store = FileStore(tmp_path / "store")
    files = store.put_folder(source)
    assert sorted(files) == ["config.json", "inner/weights.bin"]
    folder = store.materialise("model", files)
    assert (folder / "inner" / "weights.bin").read_bytes() == b"\x00" * 100
    assert store.materialise("model", files) == folder


def test_a_folder_that_someone_changed_is_made_anew(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")
    store = FileStore(tmp_path / "store")
    files = store.put_folder(source)
    folder = store.materialise("model", files)
    (folder / "stray.json").write_text("extra")
    (folder / "config.json").unlink()
    (folder / "config.json").write_text("other")
    assert store.materialise("model", files) == folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config.json": "{}"}


@pytest.mark.parametrize("inside", ["../escape", "/etc/escape", "a/../../escape"])
def test_a_stored_folder_cannot_name_a_file_outside_itself(tmp_path: Path, inside: str) -> None:
    store = FileStore(tmp_path / "store")
    digest = store.put(b"payload")
    with pytest.raises(FileDamaged, match="outside itself"):
        store.materialise("model", {inside: digest})
    assert not list(tmp_path.rglob("*escape*"))


@pytest.mark.parametrize("digest", ["", "../../x", "ab" * 31, "AB" * 32, "zz" * 32])
def test_only_a_digest_names_a_stored_file(tmp_path: Path, digest: str) -> None:
    with pytest.raises(FileDamaged):
        FileStore(tmp_path).path(digest)
