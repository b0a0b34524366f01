"""Every cell of a sweep against TransformerLens and nnsight, which patch the same models in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import patchlight as pl
from benchmarks.speed.models import write_model
from benchmarks.speed.work import Place, Prompts, random_prompts
from benchmarks.speed.worker import OWN_ENVIRONMENT, Worker, python_of

LAYERS, HEADS, TOKENS, PAIRS, WORDS = 3, 4, 6, 2, 50
FAMILIES = {
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 32},
    "llama": {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
    },
}
COMPONENTS = ("resid_pre", "attn_out", "mlp_out", "head_out", "pattern")
SINGLE = 2e-6  # where the peer rounds to float32: TransformerLens its results, Llama's eager attention its softmax
DOUBLE = 1e-12


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose words `w50` and `w51`, the answers, occur in no prompt."""
    made = tmp_path_factory.mktemp(family)
    write_model(made, FAMILIES[family] | {"vocab_size": WORDS + 2}, spread=0.25)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> pl.Model:
    return pl.load_model(folder, dtype="float64")


@pytest.fixture(scope="module", params=OWN_ENVIRONMENT)
def peer(request: pytest.FixtureRequest, folder: Path) -> Iterator[Worker]:
    python = python_of(request.param)
    if python is None:
        pytest.skip(f"{request.param} has no environment; `make parity` makes it and runs these tests")
    with Worker(python, request.param, folder, dtype="float64", threads=1) as worker:
        yield worker


def prompts() -> Prompts:
    random = random_prompts(PAIRS, TOKENS, [1, 3], WORDS)
    return Prompts(random.donor, random.recipient, [[WORDS, WORDS + 1]] * PAIRS)


def pairs() -> list[pl.Pair]:
    """The same prompts as text."""
    rows = zip(prompts().donor, prompts().recipient, strict=True)
    return [pl.Pair(clean=text(clean), corrupted=text(other), correct=" w50", wrong=" w51") for clean, other in rows]


def text(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


def every_place(component: str) -> list[Place]:
    heads = range(HEADS) if component in ("head_out", "pattern") else [None]
    return [Place(component, *at) for at in product(range(LAYERS), heads, range(TOKENS))]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_cell_is_what_the_peer_gets(peer: Worker, model: pl.Model, family: str, component: str) -> None:
    ours = pl.sweep(model, pairs(), component=component).values
    theirs = np.array(peer.ask(prompts(), every_place(component)).values).T.reshape(ours.shape)
    rounds = peer.peer == "transformer_lens" or (family, component) == ("llama", "pattern")
    assert ours.std() > 0.1
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=SINGLE if rounds else DOUBLE)
