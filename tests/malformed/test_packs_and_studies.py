"""Malformed packs and studies: read, or refused with a code and a place; never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from patchlight.errors import InputError
from patchlight.packs.check import check_pack
from patchlight.packs.problem import FileRefused
from patchlight.packs.read import parse_pack, read_pack
from patchlight.packs.yaml_source import parse_yaml
from patchlight.study.spec import read_study
from patchlight.study.walk import require_relations
from tests.conftest import STUDY
from tests.malformed.spoiling import as_json, bad_bytes, bad_paths, bad_values, examples, refused
from tests.packs.conftest import PACK

WIDE_STUDY = {
    "patchlight": "study/1",
    "id": "wide",
    "title": {"en": "Where?", "ja": "どこ"},
    "seed": 3,
    "pack": "epilepsy",
    "language": "en",
    "model": {"load": "gpt2", "dtype": "float32", "device": "cpu"},
    "corpus": {"compose": {"documents": 200}, "validation": 0.2},
    "training": {"full": {"epochs": 2}},
    "pairs": {"relations": [], "templates_per_fact": 2, "gap_floor": 0.5, "max_per_kind": 20},
    "sweep": {
        "components": ["attn_out", "mlp_out"],
        "metric": ["logit_diff", "kl"],
        "screening": {"components": ["attn_out"], "candidates": 0.1},
        "across": {"components": ["mlp_out"]},
        "sets": {"share": [0.8], "largest": 0.2},
        "subspaces": {"sites": ["blocks.0.mlp_out@subject_last"], "dimensions": [1, 2]},
        "pairs_per_unit": 8,
        "memory": "1GiB",
    },
    "controls": ["random_init"],
    "statistics": {"resamples": 500, "confidence": 0.95},
}


def check_pack_file(file: Path) -> None:
    try:
        pack = read_pack(file)
    except InputError as error:
        refused(error, "pack-")
        if isinstance(error, FileRefused):
            assert all(each.line(language) for each in error.problems for language in ("en", "ja"))
    else:
        assert all(problem.line("ja") for problem in check_pack(pack))
        assert all(template.fill(fact.subject) for fact in pack.facts() for template in pack.templates(fact.relation))


def check_study_file(file: Path) -> None:
    try:
        study = read_study(file)
        require_relations(study, read_pack(study.pack_source))
    except InputError as error:
        refused(error, "study-", "pack-")
    else:
        assert study.spec.digest
        assert study.model_source or study.spec.model.new_gpt2
        assert study.adapter_source is None or study.adapter_source


def test_spoilt_bytes_of_a_pack(tmp_path: Path) -> None:
    file = tmp_path / "mini.yaml"

    @examples(250)
    @given(bad_bytes(PACK.encode()))
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check_pack_file(file)

    spoil()


def test_odd_values_in_a_pack(tmp_path: Path) -> None:
    file = tmp_path / "mini.yaml"

    @examples(250)
    @given(bad_values(parse_yaml(PACK, file, "pack")[0]).map(as_json))
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check_pack_file(file)

    spoil()


def test_spoilt_bytes_of_a_study(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    (tmp_path / "pack.yaml").write_text(PACK, encoding="utf-8")

    @examples(200)
    @given(bad_bytes(STUDY.encode()))
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check_study_file(file)

    spoil()


def test_odd_values_in_a_study(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    (tmp_path / "pack.yaml").write_text(PACK, encoding="utf-8")

    @examples(300)
    @given(bad_values({**WIDE_STUDY, "pack": "pack.yaml"}).map(as_json))
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check_study_file(file)

    spoil()


@pytest.mark.parametrize("what", ["missing", "folder", "loop", "unread", "empty", "long", "under"])
def test_what_is_no_file_is_refused(tmp_path: Path, what: str) -> None:
    path = bad_paths(tmp_path, ".yaml")[what]
    with pytest.raises(InputError) as pack:
        parse_pack(path)
    refused(pack.value, "pack-")
    with pytest.raises(InputError) as study:
        read_study(path)
    refused(study.value, "study-")
