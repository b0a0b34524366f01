"""A result comes back bit for bit, and equal results have equal digests."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from patchlight.store.files import FileDamaged, FileStore
from patchlight.store.results import Artifact, Result, keep, opened


def stored(folder: Path, result: Result) -> Artifact:
    files = FileStore(folder)
    manifest = keep(files, result)
    return opened(files, manifest, hashlib.sha256(manifest.encode()).hexdigest())


@settings(max_examples=40, deadline=None)
@given(
    array=arrays.arrays(
        st.sampled_from([np.dtype(kind) for kind in ("float32", "float64", "int64", "bool")]),
        arrays.array_shapes(min_dims=1, max_dims=4, max_side=4),
    )
)
def test_tensors_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    back = stored(tmp_path_factory.mktemp("store"), Result(parts={"effects": {"values": array}}))
    values = back.tensors("effects")["values"]
    assert (values.dtype, values.shape) == (array.dtype, array.shape)
    assert values.tobytes() == array.tobytes()


def test_an_array_seen_from_the_side_is_stored_as_it_looks(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    back = stored(tmp_path, Result(parts={"effects": {"values": array}}))
    assert np.array_equal(back.tensors("effects")["values"], array)


def test_a_table_comes_back_with_its_gaps_infinities_and_words(tmp_path: Path) -> None:
    table = pd.DataFrame({"effect": [0.1, np.nan, -np.inf], "layer": [0, 1, 2], "word": ["発作", "seizure", None]})
    back = stored(tmp_path, Result(parts={"effects": table})).table("effects")
    pd.testing.assert_frame_equal(back, table)


def test_equal_results_have_equal_digests_and_any_difference_shows(tmp_path: Path) -> None:
    def digest(value: float, name: str = "a", meta: int = 1) -> str:
        table = pd.DataFrame({"x": [value, 2.0]})
        return stored(tmp_path, Result({"meta": meta}, {name: table})).digest

    assert digest(1.0) == digest(1.0)
    assert len({digest(1.0), digest(1.0 + 2**-52), digest(1.0, "b"), digest(1.0, meta=2)}) == 4


def test_asking_for_a_part_of_another_kind_is_an_error(tmp_path: Path) -> None:
    back = stored(tmp_path, Result(parts={"effects": {"values": np.zeros(2)}}))
    with pytest.raises(KeyError, match="no table 'effects'"):
        back.table("effects")
    with pytest.raises(KeyError, match="no tensors 'other'"):
        back.tensors("other")


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    files = FileStore(tmp_path)
    manifest = keep(files, Result({"verdict": "undetermined"}))
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    assert opened(files, manifest, digest).meta == {"verdict": "undetermined"}
    with pytest.raises(FileDamaged):
        opened(files, manifest.replace("undetermined", "localised"), digest)


def test_not_a_number_is_refused_in_meta(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        keep(FileStore(tmp_path), Result({"effect": float("nan")}))
