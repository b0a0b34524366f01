"""The YAML of a study: what is asked, of which model, with which settings.

Every field is checked when the file is read; an unknown key is an error with its line and a suggestion.
Paths in the file are relative to the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from patchlight.errors import InputError, Place
from patchlight.on_disk import absolute, is_there
from patchlight.packs.yaml_source import load_yaml
from patchlight.records import NULLS, Null
from patchlight.study.section import Section
from patchlight.study.sweeping import Sweep
from patchlight.study.training import TrainingChoice

Controls = Annotated[
    tuple[Null, ...],
    BeforeValidator(
        lambda given: {"all": NULLS, "none": ()}.get(given, [given]) if isinstance(given, str) else given,
        json_schema_input_type=Literal["all", "none"] | Null | list[Null],
    ),
]
Wordings = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=str | list[str]),
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]


class Compose(Section):
    """A training corpus written from the pack itself."""

    documents: int = Field(ge=50, le=200_000, description="How many abstracts to write.")


class Corpus(Section):
    """Where the training texts come from: written from the pack, or read from files."""

    compose: Compose | None = None
    files: tuple[Path, ...] = ()
    limit: int | None = Field(default=None, ge=20, description="Read at most this many documents.")
    mention: str = Field(default="", description="Keep only documents that contain this word, case ignored.")
    validation: float = Field(
        default=0.2,
        gt=0,
        lt=0.9,
        description="Share of the documents held for validation (a prepared folder brings its own split).",
    )

    @model_validator(mode="after")
    def one_origin(self) -> Corpus:
        """Refuse a corpus without an origin, or with two."""
        if (self.compose is None) == (not self.files):
            raise ValueError("say either `compose` or `files`, exactly one of them")
        return self


class NewGPT2(Section):
    """A GPT-2 trained from scratch, with a tokenizer trained on the corpus."""

    layers: int = Field(default=6, ge=1, le=48)
    width: int = Field(default=192, ge=16, le=2048)
    heads: int = Field(default=6, ge=1, le=32)
    context: int = Field(default=128, ge=32, le=2048)
    vocabulary: int = Field(default=3000, ge=300, le=100_000)


class ModelChoice(Section):
    """The model under study: loaded, or made new."""

    load: str | None = Field(
        None,
        description="Hub id, folder, .gguf file, or package:NAME for a GGUF inside an installed package.",
    )
    revision: str | None = Field(default=None, description="Pinned revision of a hub model.")
    new_gpt2: NewGPT2 | None = None
    adapter: str | None = Field(
        default=None, description="Hub id or folder of a LoRA adapter over the loaded model, patched through unmerged."
    )
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device: str = Field(
        default="cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="Where it runs: cpu, cuda, cuda:1, mps."
    )

    @model_validator(mode="after")
    def one_origin(self) -> ModelChoice:
        """Refuse a model without an origin, or with two."""
        if (self.load is None) == (self.new_gpt2 is None):
            raise ValueError("say either `load` or `new_gpt2`, exactly one of them")
        if self.adapter and self.load is None:
            raise ValueError("an `adapter` lies over a model to `load`")
        return self


class Pairs(Section):
    """Which questions are asked."""

    relations: tuple[str, ...] = Field(default=(), description="Only these relations of the pack; empty for all.")
    templates_per_fact: int = Field(default=3, ge=1, le=20)
    gap_floor: float | None = Field(
        default=None, ge=0, description="Smallest clean-corrupted gap; by default the metric's own, 0.5 for logit_diff."
    )
    max_per_kind: int = Field(default=60, ge=2, description="At most this many pairs of a kind are swept.")
    swap: Literal["subject", "condition", "object_class"] = Field(
        default="subject", description="What the corrupted twin has another of: subject, condition, or thing asked for."
    )
    distractors: bool = Field(
        default=False, description="A question takes part only where its answer beats the fact's distractors, too."
    )


class Statistics(Section):
    """How certain the figures are."""

    resamples: int = Field(default=10_000, ge=200, le=1_000_000)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)


class PublishedQuestion(Section):
    """A question as the publication asks it: two whole prompts, and two phrases of which the tokens are scored."""

    kind: str = Field(min_length=1, description="The kind of knowledge, as the pack names it.")
    fact: str = Field(min_length=1, description="What the question is about; questions about one fact count as one.")
    clean: str = Field(min_length=1, description="The prompt of the clean run.")
    corrupted: Wordings = Field(description="The prompt of the corrupted run; the first as long in tokens is taken.")
    answer: str = Field(min_length=1, description="The right answer; whether it stands in the prompt is looked up.")
    scored: str = Field(min_length=1, description="The phrase whose tokens are scored.")
    against: str = Field(min_length=1, description="The phrase whose tokens are subtracted.")


class Published(Section):
    """The protocol of a publication (CLAP, arXiv 2504.02976), replayed beside the study and weighed."""

    protocol: Literal["clap"] = "clap"
    questions: tuple[PublishedQuestion, ...] = Field(min_length=1)
    models: tuple[str, ...] = Field(default=(), description="Further models, as in `model.load`, asked the same.")
    random_models: int = Field(default=19, ge=1, le=999, description="Models with random weights beside each.")


class StudySpec(Section):
    """A declared investigation."""

    patchlight: Literal["study/1"]
    id: Name
    title: dict[Literal["en", "ja"], str] = Field(min_length=1)
    seed: int = Field(default=42, ge=0, lt=2**31)
    pack: str = Field(description="A built-in pack by name, or the path of a pack file.")
    language: Literal["en", "ja"] = "en"
    model: ModelChoice
    corpus: Corpus | None = None
    training: dict[Name, TrainingChoice] = Field(default={})
    before: bool = Field(default=True, description="Also study a loaded model as it was before fine-tuning.")
    pairs: Pairs = Pairs()
    sweep: Sweep = Sweep()
    controls: Controls = Field(
        default=NULLS, description="Null maps beside every map: what would be seen if nothing were there. all, or none."
    )
    statistics: Statistics = Statistics()
    published: Published | None = Field(default=None, description="Replay a published protocol, and weigh its figures.")

    @model_validator(mode="after")
    def training_has_texts(self) -> StudySpec:
        """Refuse a training without texts, and a new model without training."""
        if self.training and self.corpus is None:
            raise ValueError("`training` needs a `corpus`")
        if self.corpus is not None and not self.training:
            raise ValueError("a `corpus` is read only for `training`: add a configuration, or leave it out")
        if self.model.new_gpt2 is not None and not self.training:
            raise ValueError("a new model that is never trained has nothing to find: add `training`")
        if self.sweep.across and not (self.training and self.before and self.model.load):
            raise ValueError("`across` compares a loaded model before and after `training`: it needs `before`, too")
        if self.sweep.across and self.sweep.metrics[0] == "kl":
            raise ValueError("`across` scores answers: put another metric than kl first, or leave out `across`")
        if self.model.adapter and self.training:
            raise ValueError("a model with an `adapter` is not trained: merge it first, or leave out `training`")
        return self

    @property
    def gap_floor(self) -> float:
        """The smallest gap of a pair that takes part, in the unit of the first metric."""
        from patchlight.pairs.answers import METRICS

        return METRICS[self.sweep.metrics[0]].floor if self.pairs.gap_floor is None else self.pairs.gap_floor

    @property
    def digest(self) -> str:
        """SHA-256 of the study's content, independent of comments and the order of keys."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Study:
    """A study file that was read: its content, and the file that relative paths start from."""

    spec: StudySpec
    file: Path

    @property
    def pack_source(self) -> str | Path:
        """The pack as `read_pack` takes it: a built-in name, or a path made absolute."""
        looks_like_path = self.spec.pack.endswith((".yaml", ".yml"))
        return absolute(self.file.parent / self.spec.pack) if looks_like_path else self.spec.pack

    @property
    def corpus_files(self) -> tuple[Path, ...]:
        """The corpus files, made absolute."""
        return tuple(absolute(self.file.parent / file) for file in self.spec.corpus.files) if self.spec.corpus else ()

    @property
    def model_source(self) -> str | None:
        """The model to load: a folder beside the study where there is one, else as written."""
        return self._beside(self.spec.model.load)

    @property
    def adapter_source(self) -> str | None:
        """The adapter over the model: a folder beside the study where there is one, else as written."""
        return self._beside(self.spec.model.adapter)

    def _beside(self, source: str | None) -> str | None:
        beside = self.file.parent / source if source else None
        return str(absolute(beside)) if beside is not None and is_there(beside) else source


def read_study(path: Path, *, device: str | None = None, memory: str | None = None) -> Study:
    """The study in a YAML file; `device` and `memory` take the place of what it says of them.

    Raises:
        InputError: the file is missing, is not YAML, does not follow the schema (with file:line:column),
            or names corpus files that do not exist; an option has no such value.

    """
    spec: StudySpec = load_yaml(path, StudySpec, code="study")
    if device is not None:
        spec = spec.model_copy(update={"model": _with(spec.model, "device", device)})
    if memory is not None:
        spec = spec.model_copy(update={"sweep": _with(spec.sweep, "memory", memory)})
    study = Study(spec, path)
    for file in study.corpus_files:
        if not is_there(file):
            raise InputError(
                "study-corpus-missing",
                f"the corpus {file} does not exist",
                where=Place(path),
                fix="check `corpus.files` (relative to the study file), or fetch one: patchlight corpus --help",
            )
    return study


def _with(section: Section, option: str, value: str) -> Section:
    try:
        return type(section).model_validate({**section.model_dump(by_alias=True), option: value})
    except ValidationError as error:
        what = f"--{option} {value}: {error.errors()[0]['msg']}"
        raise InputError("study-option", what, fix="for example --device cuda:0, --memory 2GiB") from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a study file, for editors and for `patchlight validate --schema`."""
    return StudySpec.model_json_schema()
