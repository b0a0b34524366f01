"""The study file: what is accepted, what is refused and where, and that its references stay true."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

from patchlight.errors import InputError
from patchlight.model.settings import preset
from patchlight.packs.spec import PackFile
from patchlight.study.spec import json_schema, read_study
from patchlight.study.stages import training_settings
from patchlight.study.sweeping import Estimate, Screened
from patchlight.trace.changes import ESTIMATED
from patchlight.trace.gradients import METHODS
from patchlight.trace.screening import screen_sites

ROOT = Path(__file__).parents[2]
LEAST = """\
patchlight: study/1
id: least
title: {en: Least}
pack: common
model: {load: some/model}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_study_of_five_lines_is_enough(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, LEAST))
    assert study.spec.sweep.components == ("resid_pre", "attn_out", "mlp_out")
    assert study.spec.sweep.directions == ("denoise", "noise")


def test_the_digest_ignores_comments_and_layout_but_not_content(tmp_path: Path) -> None:
    first = read_study(written(tmp_path, LEAST)).spec.digest
    assert (
        read_study(written(tmp_path, "# a comment\n" + LEAST.replace("{en: Least}", "\n  en: Least"))).spec.digest
        == first
    )
    assert read_study(written(tmp_path, LEAST + "seed: 43\n")).spec.digest != first


def test_a_screening_is_off_until_it_is_asked_for_and_has_the_defaults_of_the_library(tmp_path: Path) -> None:
    assert read_study(written(tmp_path, LEAST)).spec.sweep.screening is None
    asked = read_study(written(tmp_path, LEAST + "sweep: {screening: {}}\n")).spec.sweep.screening
    assert asked is not None
    defaults = inspect.signature(screen_sites).parameters
    assert asked.model_dump() == {name: defaults[name].default for name in asked.model_dump()}


def test_what_a_study_can_screen_is_what_can_be_estimated() -> None:
    assert set(get_args(Screened)) == set(ESTIMATED) - {"embed"}
    assert get_args(Estimate) == METHODS


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("seeds: 3", "study-unknown-key", "did you mean 'seed'"),
        ("training: {I: {learning_rate: 0.1}}", "study-value", "needs a `corpus`"),
        ("corpus: {files: [a.jsonl], compose: {documents: 100}}", "study-value", "exactly one"),
        ("sweep: {components: [resid_per]}", "study-value", "did you mean 'resid_pre'"),
        ("sweep: {screening: {components: [logits]}}", "study-value", "mlp_out"),
        ("sweep: {screening: {candidates: 10}}", "study-value", "less than or equal to 1"),
        ("sweep: {metric: [kl, logit_diff], screening: {}}", "study-value", "put logit_diff first"),
        ("statistics: {confidence: 95}", "study-value", "less than 1"),
        ("pairs: [1, 2", "study-yaml", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_refused_at_its_line(tmp_path: Path, line: str, code: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        read_study(written(tmp_path, LEAST + line + "\n"))
    assert refused.value.code == code
    assert said in str(refused.value)
    assert "study.yaml:" in str(refused.value.where)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{load: some/model, device: gpu}", "device"),
        ("{load: some/model, dtype: int8}", "float16"),
        ("{new_gpt2: {layers: 2}, adapter: some/adapter}", "lies over a model to `load`"),
        ("{load: some/model, adapter: some/adapter}", "is not trained"),
    ],
)
def test_a_model_that_cannot_be_is_refused(tmp_path: Path, model: str, said: str) -> None:
    training = "corpus: {compose: {documents: 100}}\ntraining: {I: {learning_rate: 0.1}}\n"
    with pytest.raises(InputError, match="study-value") as refused:
        read_study(written(tmp_path, LEAST.replace("{load: some/model}", model) + training))
    assert said in str(refused.value)


def test_an_adapter_beside_the_study_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    model = "{load: some/model, adapter: adapter, device: 'cuda:1', dtype: float16}"
    study = read_study(written(tmp_path, LEAST.replace("{load: some/model}", model)))
    assert (study.model_source, study.adapter_source) == ("some/model", str(tmp_path / "adapter"))


def test_a_corpus_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = LEAST + "corpus: {files: [gone.jsonl]}\ntraining: {I: {learning_rate: 0.001}}\n"
    with pytest.raises(InputError, match=r"gone\.jsonl does not exist"):
        read_study(written(tmp_path, text))


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_studies_that_come_with_patchlight_can_be_read(file: Path, tmp_path: Path) -> None:
    if file.stem == "epilepsy-gpt2":  # its abstracts are fetched first
        (tmp_path / "epilepsy-abstracts").mkdir()
        file = Path(shutil.copy(file, tmp_path))
    if "shared" in file.read_text(encoding="utf-8") and not (ROOT.parent / "shared").is_dir():
        pytest.skip("the real data beside the checkout (../shared/data) is not there")
    assert read_study(file).spec.id == file.stem


@pytest.mark.parametrize(("name", "schema"), [("study", json_schema()), ("pack", PackFile.model_json_schema())])
def test_the_schema_in_the_docs_is_the_one_in_the_code(name: str, schema: dict[str, object]) -> None:
    assert json.loads((ROOT / "docs" / "reference" / f"{name}.schema.json").read_text(encoding="utf-8")) == schema


@pytest.mark.parametrize(
    "key", ["mention", "max_per_kind", "gap_floor", "before", "evaluate_every", "revision", "adapter", "device"]
)
def test_the_guide_names_the_keys(key: str) -> None:
    assert f"`{key}`" in (ROOT / "docs" / "guide" / "studies.md").read_text(encoding="utf-8").replace("model.", "")


def test_options_take_the_place_of_what_the_study_says(study):
    read = read_study(study, device="cuda:1", memory="2GiB")
    assert (read.spec.model.device, read.spec.sweep.memory) == ("cuda:1", 2 << 30)
    assert read.spec.digest != read_study(study).spec.digest
    assert read_study(study, memory="1GiB").spec.digest == read_study(study).spec.digest


@pytest.mark.parametrize("option", [{"device": "toaster"}, {"memory": "much"}, {"memory": "1kB"}])
def test_options_without_such_a_value_are_refused(option, study):
    with pytest.raises(InputError, match="study-option"):
        read_study(study, **option)


def test_a_preset_is_a_start_that_can_be_changed(tmp_path: Path) -> None:
    text = LEAST + "corpus: {compose: {documents: 50}}\ntraining: {I: {preset: clap-1, precision: fp32}}\n"
    choice = read_study(written(tmp_path, text)).spec.training["I"]
    settings = training_settings(choice)
    assert settings == preset("clap-1", precision="fp32")
    with pytest.raises(InputError, match="preset"):
        read_study(written(tmp_path, text.replace("clap-1", "clap-9")))
