"""Random rows over every component, on random pairs and in small passes, against plain hooks on the stock model."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlight.records import Site
from patchlight.trace import pieces
from patchlight.trace.capture import capture
from patchlight.trace.engine import replay
from patchlight.trace.rows import COMPONENTS, HEADED, Rows
from patchlight.trace.sites import n_units

FAMILIES = ["gpt2", "llama", "gpt_neox", "gemma2", "mistral", "mixtral", "phi", "granite", "bloom", "falcon", "mpt"]
import os
EXAMPLES = int(os.environ.get("EX", "15"))
DEFAULT = {"q", "k", "v", "head_out", "attn_out", "mlp_out"}


def components(model) -> list[str]:
    """Those that the model has, in front of the final norm."""
    absent = {"final_norm", "logits"}
    absent |= {"resid_mid"} if model.parallel else set()
    absent |= {"mlp_hidden"} if model.family.mlp_proj is None else set()
    absent |= set() if model.family.interface else {"q", "pattern"}
    return [name for name in COMPONENTS if name not in absent]


def some(count: int) -> st.SearchStrategy[int | list[int]]:
    """One index, more often than several."""
    one = st.integers(0, count - 1)
    return one | one | one | st.sets(one, min_size=1, max_size=min(3, count)).map(sorted)


@st.composite
def sites(draw, model, length: int) -> Site:
    name = draw(st.sampled_from(components(model)))
    layer = None if name == "embed" else draw(some(model.n_layers))
    unit = draw(st.none() | some(n_units(name, model))) if name in (*HEADED, "mlp_hidden") else None
    return Site(name, layer, unit, draw(some(length) | st.none()))


@st.composite
def prompts(draw, length: int) -> tuple[list[int], list[int]]:
    """A donor's and a recipient's, which differ in one token or more."""
    donor = draw(st.lists(st.integers(0, 49), min_size=length, max_size=length))
    differing = draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=min(3, length)))
    return donor, [(token + 1) % 50 if at in differing else token for at, token in enumerate(donor)]


def check(data, model, oracle_logits, rtol: float, atol: float) -> None:
    length = data.draw(st.integers(1, 7), "length")
    pairs = data.draw(st.lists(prompts(length), min_size=1, max_size=3), "pairs")
    row = st.tuples(st.integers(0, len(pairs) - 1), st.lists(sites(model, length), min_size=1, max_size=5))
    rows = data.draw(st.lists(row, min_size=1, max_size=6), "rows")
    read = data.draw(st.integers(1, min(3, length)), "read")
    memory = data.draw(st.sampled_from([1, 2000, 1 << 20]), "memory")
    tokens = data.draw(st.sampled_from([1, 9, 512]), "tokens a call")
    known = {"k", "v"} | data.draw(st.sets(st.sampled_from(sorted(DEFAULT))), "what the recipient's run holds")
    known -= set() if model.family.interface else {"q"}
    donors, recipients = (torch.tensor(ids) for ids in zip(*pairs, strict=True))
    recipient = capture(model, recipients, known, read=read)
    before = recipient if data.draw(st.booleans(), "prompts share what they begin with") else None
    kept = set(components(model)) - {"embed", "resid_pre", "resid_post"}
    donor = capture(model, donors, kept, read=read, before=before)
    made = Rows.of([pair for pair, _ in rows], [together for _, together in rows], length)
    with patch.object(pieces, "TOKENS_PER_CALL", tokens), torch.no_grad():
        found = model.logits(replay(model, recipient, donor, made, memory=memory))
    for index, (pair, together) in enumerate(rows):
        expected = oracle_logits(model, *pairs[pair], [together], read)[0]
        np.testing.assert_allclose(found[index].numpy(), expected.numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_rows_equal_plain_hooks(name, data, tiny, oracle_logits):
    model = tiny(name, layers=data.draw(st.integers(1, 3), "layers"), seed=data.draw(st.integers(0, 1), "seed"))
    check(data, model, oracle_logits, 1e-9, 1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_rows_in_float32_stay_within_its_limit(name, data, tiny, oracle_logits):
    check(data, tiny(name, torch.float32, layers=3), oracle_logits, 0, 5e-5)
