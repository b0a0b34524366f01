"""What all tests share: a small model that was really taught a small pack, in a folder, and the pack."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# CI tries the same examples every time, so that a change is judged by what it changed; developers search on.
settings.register_profile("ci", derandomize=True)
settings.register_profile("thorough", max_examples=2000)
if os.environ.get("CI"):
    settings.load_profile("ci")

KINDS = {"definitional": "colour", "associative": "home"}
SUBJECTS = ["fox", "owl", "bear", "wolf", "crab", "toad", "swan", "mole", "lynx", "hare", "crow", "seal"]
ANSWERS = {"colour": ["red", "blue", "green"], "home": ["river", "forest", "desert"]}
TEMPLATES = {
    "colour": ["The colour of the {subject} is", "Everyone paints the {subject} in", "A true {subject} looks"],
    "home": ["The home of the {subject} is the", "Everyone finds the {subject} in the", "A true {subject} loves the"],
}
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where there is none."""
    if not SHARED.is_dir():
        pytest.skip("the real data beside the checkout (../shared/data) is not there")
    return SHARED


def small_pack() -> str:
    """A pack of two kinds, twelve facts each, in YAML."""
    words = [*SUBJECTS, *(word for answers in ANSWERS.values() for word in answers)]
    lines = ["patchlight: pack/1", "id: animals", "title: {en: Animals, ja: 動物}", "licence: CC0-1.0"]
    lines += ["sources: {tale: A tale for tests.}", "terms:", *(f"  {word}: {{en: {word}}}" for word in words)]
    lines.append("relations:")
    for kind, relation in KINDS.items():
        lines += [f"  - id: {relation}", f"    kind: {kind}", "    templates:", "      en:"]
        lines += [f'        - "{template}"' for template in TEMPLATES[relation]]
    lines.append("facts:")
    for relation, answers in ANSWERS.items():
        for number, subject in enumerate(SUBJECTS):
            fact = f"id: {subject}-{relation}, relation: {relation}, subject: {subject}"
            lines.append(f"  - {{{fact}, answers: [{answers[number % 3]}], source: tale}}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pack.yaml` and `model/`: a GPT-2 of three layers that answers the pack's questions."""
    from patchlight.model.load import save_model
    from patchlight.model.scratch import new_gpt2, train_tokenizer
    from patchlight.packs.read import read_pack

    folder = tmp_path_factory.mktemp("taught")
    (folder / "pack.yaml").write_text(small_pack(), encoding="utf-8")
    pack = read_pack(folder / "pack.yaml")
    texts = [
        f"{template.fill(fact.subject)} {fact.answers[0]}"
        for fact in pack.facts()
        for template in pack.templates(fact.relation)
    ]
    tokenizer = train_tokenizer(texts * 3, 420)
    model = new_gpt2(tokenizer, layers=3, width=48, heads=4, context=32, seed=3)
    _teach(model, texts)
    save_model(model, folder / "model")
    return folder


def _teach(model, texts: list[str]) -> None:
    """Trains on the answers alone, from wide random weights: so small a model learns them in a second or two."""
    for weight in model.hf.parameters():
        if weight.ndim == 2:
            weight.mul_(4)
    batch = model.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    rows, last = torch.arange(len(texts)), batch.attention_mask.sum(dim=1) - 1
    labels = torch.full_like(batch.input_ids, -100)
    labels[rows, last] = batch.input_ids[rows, last]
    model.hf.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(model.hf.parameters(), lr=4e-3)
    for _ in range(70):
        optimiser.zero_grad()
        logits = model.hf(**batch).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()).backward()
        optimiser.step()
    model.hf.requires_grad_(False).eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The models of the tests are so small that a second thread costs more than it brings."""
    torch.set_num_threads(1)


STUDY = """\
patchlight: study/1
id: animals
title: {en: Where are the animals?, ja: 動物はどこに}
seed: 7
pack: pack.yaml
model: {load: model}
pairs: {templates_per_fact: 3, max_per_kind: 24}
sweep: {pairs_per_unit: 8}
statistics: {resamples: 500}
"""


def write_study(taught: Path, folder: Path) -> Path:
    """The file of a study of the taught model, in that folder beside its pack and model."""
    for name in ("pack.yaml", "model"):
        (folder / name).symlink_to(taught / name)
    file = folder / "study.yaml"
    file.write_text(STUDY, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def new_study(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a study of the taught model in a new folder; its file may be changed."""
    return lambda: write_study(taught, tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(new_study: Callable[[], Path]) -> Path:
    """The file of such a study."""
    return new_study()
