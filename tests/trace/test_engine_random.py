"""Random rows over every component, on random pairs and in small passes, against plain hooks on the stock model."""

from __future__ import annotations

from functools import partial
from itertools import product
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
from patchlight.trace.sites import n_units, read_site
from patchlight.trace.sweep import sweep

FAMILIES = ["gpt2", "llama", "gpt_neox", "gemma2", "mistral", "mixtral", "phi", "granite"]
FAMILIES += ["gpt_neo", "bloom", "falcon", "falcon-alibi", "falcon-7b", "mpt"]  # by way of a block's cache

EXAMPLES = 15
USUAL = {"q", "k", "v", "head_out", "attn_out", "mlp_out"}


def components(model) -> list[str]:
    """Those that the model has, in front of the final norm."""
    absent = {"final_norm", "logits"}
    absent |= {"resid_mid"} if model.parallel else set()
    absent |= {"mlp_hidden"} if model.family.mlp_proj is None else set()
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
    held = st.just(USUAL) | st.just(USUAL) | st.sets(st.sampled_from(sorted(USUAL)))
    known = {"k", "v"} | data.draw(held, "what the recipient's run holds")
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


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gpt_neo", "falcon-7b"])
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_rows_in_float32_stay_within_its_limit(name, data, tiny, oracle_logits):
    check(data, tiny(name, torch.float32, layers=3), oracle_logits, 0, 5e-5)


TOGETHER = [
    "blocks.0.mlp_out@2 blocks.1.resid_pre@3",  # what enters by a difference is replaced again where it enters
    "blocks.0.mlp_out@2 blocks.1.resid_pre@2",
    "blocks.0.head_out.1@3 blocks.1.resid_pre@1",
    "blocks.0.resid_post@2 blocks.1.resid_pre@2",  # two names of one place
    "blocks.0.mlp_out@2 blocks.0.attn_out@2",
    "blocks.0.mlp_out@2 blocks.0.attn_out@4",
    "blocks.1.mlp_out@4",  # enters in the last layer, in front of what is read
    "blocks.1.head_out.2@3 blocks.2.resid_pre@4",
    "blocks.1.mlp_out@2-3 blocks.2.mlp_out@1",
    "blocks.1.resid_pre@4 blocks.2.resid_pre@2",
    "blocks.1.resid_pre@2+4 blocks.1.v.1@3",
    "blocks.1.resid_pre@2 blocks.1.k@4 blocks.1.attn_out@3",
    "blocks.1.v.0@2 blocks.1.mlp_out@4 blocks.0.head_out.3@4",
    "blocks.2.k@0-5 blocks.2.v.1@2 blocks.2.resid_post@5",
    "blocks.1.q@5 blocks.1.k.0@2 blocks.1.resid_pre@3",
    "blocks.1.pattern.2@4 blocks.1.q.2@4 blocks.1.v@1-2",
    "blocks.0.pattern@5 blocks.0.head_out.1@5 blocks.2.pattern.0@5",
    "blocks.2.q.1@4 blocks.2.pattern.1@5 blocks.2.mlp_out@5",
]


@pytest.mark.parametrize("read", [1, 3])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "bloom", "falcon"])
def test_sites_that_meet_in_one_row_equal_plain_hooks(name, read, tiny, oracle_logits):
    model, donor, recipient = tiny(name, layers=3), [3, 14, 15, 9, 6, 5], [3, 34, 15, 8, 6, 5]
    rows = [[read_site(site) for site in row.split()] for row in TOGETHER]
    rows = [row for row in rows if all(site.component in components(model) for site in row)]
    own = capture(model, torch.tensor([recipient]), USUAL, read=read)
    given = capture(model, torch.tensor([donor]), set(components(model)) - {"embed", "resid_pre", "resid_post"})
    with torch.no_grad():
        found = model.logits(replay(model, own, given, Rows.of([0] * len(rows), rows, 6), memory=1 << 20))
    np.testing.assert_allclose(found, oracle_logits(model, donor, recipient, rows, read), rtol=1e-9, atol=1e-10)


# ---- sweeps of mixed lengths against padded batches

MIXED = [([3, 14, 15, 9, 6], [3, 34, 15, 8, 6]), ([7, 1, 8], [7, 2, 8]), ([5], [6]), ([9, 8, 7, 6], [1, 8, 7, 3])]


def padded(prompts: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """A batch of prompts of mixed lengths for the stock model."""
    width = max(len(ids) for ids in prompts)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts])
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in prompts])
    if side == "left":
        ids, mask = (
            torch.stack([row.roll(width - len(prompt)) for row, prompt in zip(tensor, prompts, strict=True)])
            for tensor in (ids, mask)
        )
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@torch.no_grad()
def cell_of_a_padded_batch(model, hooked, part: slice, position: int, side: str) -> list[float]:
    """The logit difference of every pair with one position replaced, in one plain hooked forward of all pairs.

    NaN where a prompt has no such position.
    """
    clean, corrupted = (padded(prompts, side) for prompts in zip(*MIXED, strict=True))
    lengths = clean["attention_mask"].sum(1)
    first = clean["attention_mask"].argmax(1)
    rows, seen = (lengths > position).nonzero()[:, 0], []

    def record(tensor: torch.Tensor) -> None:
        seen.append(tensor.clone())

    def replace(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[rows, first[rows] + position, part] = seen[0][rows, first[rows] + position, part]
        return tensor

    for act, batch in ((record, clean), (replace, corrupted)):
        handle = hooked(act)
        logits = model.hf(**batch).logits[range(len(MIXED)), first + lengths - 1]
        handle.remove()
    return torch.where(lengths > position, logits[:, 50] - logits[:, 51], torch.nan).tolist()


@pytest.mark.parametrize("component", ["resid_pre", "head_out", "attn_out", "mlp_hidden", "mlp_out", "resid_post"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_a_cell_does_not_depend_on_padding_or_company(name, side, component, tiny, pair_of, plain_hook):
    model = tiny(name)
    width = model.head_dim if component == "head_out" else None
    parts = [slice(at, at + width) for at in range(0, model.width, width)] if width else [slice(None)]
    values = sweep(model, [pair_of(*pair) for pair in MIXED], component=component).values
    for layer, (unit, part), position in product(range(2), enumerate(parts), range(5)):
        expected = cell_of_a_padded_batch(model, partial(plain_hook, model, component, layer), part, position, side)
        found = values[:, layer, unit, position] if width else values[:, layer, position]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
