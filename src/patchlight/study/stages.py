"""The stages of a study as units of work: each says what goes into it and how its result is made.

Nothing heavy is imported or loaded before a unit really has to be computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from patchlight.errors import InputError, Place
from patchlight.packs.spec import Pack
from patchlight.records import Document, Pair
from patchlight.run.units import Unit, Workplace
from patchlight.store.digests import place_digest
from patchlight.store.results import Artifact, Result
from patchlight.study.nulls import BY_CHANCE, asked, donors_of
from patchlight.study.results import Checkpoint, Question
from patchlight.study.spec import NewGPT2, Study
from patchlight.study.training import TrainingChoice

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model
    from patchlight.model.settings import TrainingSettings

# The rooms whose code decides each result, and the files of this room that do.
TEXTS = ("packs", "corpus", "study/stages.py")
TRAINING = ("corpus", "model", "study/stages.py")
QUESTIONS = ("packs", "model", "pairs", "study/questions.py")
SWEEPS = ("model", "pairs", "trace", "verify", "study/nulls.py", "study/stages.py")
FEWEST_DOCUMENTS = 2  # one to train on, one to validate with


def seed_of(study: Study, *words: str) -> int:
    """A seed of its own for each use of chance, derived from the study's seed."""
    text = "/".join((str(study.spec.seed), *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def texts_unit(study: Study, pack: Pack) -> Unit:
    """The training texts: written from the pack, or read from the corpus files; split by document."""
    corpus = study.spec.corpus
    if corpus is None:
        raise ValueError("a study without training has no texts")

    def work(_: Workplace) -> Result:
        from patchlight.corpus.split import recorded, split

        documents = _documents(study, pack)
        _require_documents(documents, study)
        parts = recorded(documents) or split(documents, validation=corpus.validation, seed=seed_of(study, "split"))
        rows = [
            {**dataclasses.asdict(document), "part": part}
            for part in ("train", "validation")
            for document in getattr(parts, part)
        ]
        meta = {"read": len(documents), "train": len(parts.train), "validation": len(parts.validation)}
        return Result(meta, {"documents": pd.DataFrame(rows)})

    inputs = {
        "corpus": corpus.model_dump(mode="json"),
        "files": [place_digest(place) for place in study.corpus_files],
        "pack": pack_digest(pack) if corpus.compose else None,
        "relations": study.spec.pairs.relations if corpus.compose else (),
        "seed": study.spec.seed,
    }
    return Unit("texts", "training texts", inputs, work, TEXTS)


def training_unit(study: Study, key: str, texts: Artifact, base: Checkpoint | None) -> Unit:
    """A fine-tuned model (folder `model`) and its loss curve (table `curve`); `base` None: trained from scratch."""
    choice = study.spec.training[key]

    def work(workplace: Workplace) -> Result:
        from patchlight.model.finetune import finetune

        documents = texts.table("documents")
        train = documents.text[documents.part == "train"].tolist()
        validation = documents.text[documents.part == "validation"].tolist()
        model = base.model if base else _new_model(study, train)
        folder = workplace.folder / "training"
        trained = finetune(
            model,
            train,
            validation,
            training_settings(choice),
            folder,
            seed=seed_of(study, "training"),
            on_progress=partial(_trained, workplace, folder / "curve.csv"),
        )
        curve = pd.DataFrame([dataclasses.asdict(point) for point in trained.curve])
        meta = {
            "best_step": trained.best_step,
            "best_validation_loss": trained.best_validation_loss,
            "stopped_early": trained.stopped_early,
            "steps": trained.steps,
            "documents": len(train),
        }
        parts = {name: folder / name for name in ("model", "adapter") if (folder / name).exists()}
        return Result(meta, {**parts, "curve": curve})

    inputs = {
        "configuration": choice.model_dump(mode="json"),
        "texts": texts.digest,
        "base": base.digest if base else None,
        "new": study.spec.model.new_gpt2.model_dump() if study.spec.model.new_gpt2 else None,
        **run_on(study),
        "seed": study.spec.seed,
    }
    return Unit("training", f"training {key}", inputs, work, TRAINING)


def loaded_checkpoint(study: Study) -> Checkpoint | None:
    """The model that the study names, as it is; None where the study makes a new one."""
    source = study.model_source
    if source is None:
        return None
    from patchlight.model.digest import model_digest

    choice = study.spec.model
    digest = model_digest(source, study.adapter_source, choice.revision)

    def read() -> Model:
        from patchlight.model.load import load_model

        return load_model(
            source, dtype=choice.dtype, device=choice.device, adapter=study.adapter_source, revision=choice.revision
        )

    return Checkpoint("base", digest, read)


def trained_checkpoint(study: Study, key: str, training: Artifact) -> Checkpoint:
    """The model that a training left."""

    def read() -> Model:
        from patchlight.model.load import load_model

        return load_model(training.folder("model"), dtype=study.spec.model.dtype, device=study.spec.model.device)

    return Checkpoint(key, training.digest, read, training)


def questions_unit(study: Study, pack: Pack, checkpoint: Checkpoint) -> Unit:
    """The pairs of the pack that this model can answer, and all that was left out with reasons; see `questions.ask`."""
    spec = study.spec

    def work(workplace: Workplace) -> Result:
        from patchlight.study.questions import ask

        return ask(study, pack, checkpoint.model, workplace.on_progress)

    inputs = {
        "model": checkpoint.digest,
        **run_on(study),
        "pack": pack_digest(pack),
        "language": spec.language,
        "pairs": spec.pairs.model_dump(mode="json"),
        "metrics": spec.sweep.metrics,
        "composed": spec.corpus is not None and spec.corpus.compose is not None,
        "seed": spec.seed,
    }
    return Unit("questions", f"{checkpoint.key}: questions", inputs, work, QUESTIONS)


def identities_unit(study: Study, checkpoint: Checkpoint, pairs: Sequence[Pair]) -> Unit:
    """The identities that must hold before anything is measured (table `identities`); a broken one stops the study."""

    def work(_: Workplace) -> Result:
        from patchlight.trace.identities import prove

        proven = prove(checkpoint.model, pairs)
        return Result(parts={"identities": pd.DataFrame([dataclasses.asdict(each) for each in proven])})

    inputs = {"model": checkpoint.digest, **run_on(study), "pairs": pair_rows(pairs)}
    return Unit("identities", f"{checkpoint.key}: identities", inputs, work, SWEEPS)


@dataclass(frozen=True)
class Asked:
    """What one sweep unit is asked: a component, a direction, a null map (empty: the effect), a range of questions."""

    component: str
    direction: str
    null: str
    pairs: range


def sweep_units(
    study: Study, checkpoint: Checkpoint, questions: Sequence[Question], models: Mapping[str, Checkpoint]
) -> list[tuple[Asked, Unit]]:
    """The sweeps of a checkpoint with their null maps, cut into units; `models` run those nulls that have their own."""
    spec, found = study.spec.sweep, []
    for component in spec.components:
        for direction in spec.directions:
            for null in ("", *asked(study, checkpoint, models, direction)):
                for start in range(0, len(questions), spec.pairs_per_unit):
                    stop = min(start + spec.pairs_per_unit, len(questions))
                    found.append(Asked(component, direction, null, range(start, stop)))
    pairs = [question.pair for question in questions]
    return [(each, _sweep_unit(study, checkpoint, models.get(each.null, checkpoint), pairs, each)) for each in found]


def _sweep_unit(study: Study, checkpoint: Checkpoint, runs: Checkpoint, pairs: Sequence[Pair], asked: Asked) -> Unit:
    """One unit of a sweep of a checkpoint, in which the model of `runs` is patched."""
    mine = [pairs[index] for index in asked.pairs]

    def work(workplace: Workplace) -> Result:
        return Result(parts={"effects": _swept(study, runs, pairs, asked, workplace)})

    inputs: Mapping[str, Any] = {
        "model": runs.digest,
        **run_on(study),
        "component": asked.component,
        "direction": asked.direction,
        "metrics": _metrics(study, asked),
        "memory": study.spec.sweep.memory,  # batches decide the rounding
        "pairs": pair_rows(mine),
        # Another model's sweep is what it would be as a study's own, so that whichever comes first serves both.
        "control": {"null": asked.null, "pairs": pair_rows(pairs), "seed": study.spec.seed}
        if asked.null in BY_CHANCE
        else None,
    }
    what = f"{asked.component} {asked.direction}{f' {asked.null}' if asked.null else ''}"
    label = f"{checkpoint.key}: {what} {asked.pairs.start + 1}-{asked.pairs.stop}"
    return Unit("sweep", label, inputs, work, SWEEPS)


def _metrics(study: Study, asked: Asked) -> tuple[str, ...]:
    """All metrics of the study for the effect, the first alone for a null map."""
    return study.spec.sweep.metrics[:1] if asked.null else study.spec.sweep.metrics


def _swept(
    study: Study, checkpoint: Checkpoint, pairs: Sequence[Pair], asked: Asked, workplace: Workplace
) -> dict[str, np.ndarray]:
    """Tensors `values` and `structural` `[pair, layer, position]` of the first metric, and for each further one.

    Those of a further metric have its name: `kl`, and `kl.clean` and `kl.corrupted` `[pair]`. `clean` and `corrupted`
    are of the first. NaN for a pair that has no donor in a null map.
    """
    from patchlight.pairs.align import align
    from patchlight.trace.cells import structural_cells
    from patchlight.trace.sweep import sweeps

    model, chosen = checkpoint.model, list(asked.pairs)
    donors: Any = donors_of(asked.null, pairs, model.tokenizer, seed_of(study, "control"))
    if isinstance(donors, tuple):
        chosen = [index for index in chosen if donors[index] is not None]
        donors = [donors[index] for index in chosen]
    alignments = [align(model.tokenizer, pairs[index]) for index in asked.pairs]
    metric, *further = _metrics(study, asked)
    structural = structural_cells(alignments, asked.component, model.n_layers, metric)
    names = {metric: ("values", "clean", "corrupted"), **{name: (name, *_runs(name)) for name in further}}
    tensors = {"structural": structural}
    for values, *runs in names.values():
        tensors[values] = np.full(structural.shape, np.nan)
        tensors |= {run: np.full(len(alignments), np.nan) for run in runs}
    if chosen:
        effects = sweeps(
            model,
            [pairs[index] for index in chosen],
            metrics=(metric, *further),
            memory=study.spec.sweep.memory,
            component=asked.component,
            direction=asked.direction,
            donors=donors,
            on_progress=workplace.on_progress,
        )
        rows = [index - asked.pairs.start for index in chosen]
        for measured in effects.values():
            patched, clean, corrupted = (tensors[name] for name in names[measured.metric])
            patched[rows, :, : measured.values.shape[2]] = measured.values
            clean[rows], corrupted[rows] = measured.clean, measured.corrupted
    return tensors


def _runs(metric: str) -> tuple[str, str]:
    return f"{metric}.clean", f"{metric}.corrupted"


def pack_digest(pack: Pack) -> str:
    """SHA-256 of a pack's content, independent of comments and layout."""
    return hashlib.sha256(pack.file.model_dump_json().encode()).hexdigest()


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Pairs as plain rows, for the inputs of a unit."""
    return [dataclasses.asdict(pair) for pair in pairs]


def _require_documents(documents: Sequence[Document], study: Study) -> None:
    if len(documents) < FEWEST_DOCUMENTS:
        raise InputError(
            "study-corpus-too-small",
            f"{len(documents)} documents are left of the corpus; training and validation need {FEWEST_DOCUMENTS}",
            where=Place(study.file),
            fix="check `corpus.mention`, `corpus.limit` and the files",
        )


def _documents(study: Study, pack: Pack) -> list[Document]:
    corpus = study.spec.corpus
    if corpus is not None and corpus.compose:
        from patchlight.corpus.compose import compose

        seed, relations = seed_of(study, "compose"), study.spec.pairs.relations
        return compose(pack, documents=corpus.compose.documents, seed=seed, relations=relations)
    from patchlight.corpus.files import read_documents

    wanted, found = (corpus.mention.lower() if corpus else ""), []
    for document in read_documents(study.corpus_files):
        if wanted in document.text.lower():
            found.append(document)
        if corpus and corpus.limit and len(found) == corpus.limit:
            break
    return found


def _trained(workplace: Workplace, curve: Path, step: int, total: int, loss: float) -> None:
    """Says how far a training is, and where its curve grows."""
    workplace.on_detail(f"training loss {loss:.3f}, curve in {curve}")
    workplace.on_progress(step, total)


def training_settings(choice: TrainingChoice) -> TrainingSettings:
    """What a study file says of a training, as `finetune` takes it."""
    from patchlight.model.settings import TrainingSettings
    from patchlight.model.trained import Lora

    chosen = choice.model_dump(exclude={"preset", "lora"})
    return TrainingSettings(**chosen, lora=Lora(**choice.lora.model_dump()) if choice.lora else None)


def _new_model(study: Study, texts: Sequence[str]) -> Model:
    from patchlight.model.scratch import new_gpt2, train_tokenizer

    shape = study.spec.model.new_gpt2 or NewGPT2()
    tokenizer = train_tokenizer(texts, shape.vocabulary)
    return new_gpt2(
        tokenizer,
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        context=shape.context,
        seed=seed_of(study, "new model"),
        device=study.spec.model.device,
    )


def run_on(study: Study) -> dict[str, str]:
    """What decides the rounding of a model's numbers: their format, and the kind of device."""
    return {"dtype": study.spec.model.dtype, "device": study.spec.model.device.partition(":")[0]}
