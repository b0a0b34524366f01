"""Texts as rows of tokens for training: joined end to end, cut text by text, or cut off; padding counted or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from patchlight.errors import InputError
from patchlight.model.anatomy import Model
from patchlight.model.source import quiet

IGNORED = -100  # the label that the loss of transformers leaves out
COMPARABLE_LENGTH = 512

Layout = Literal["joined", "chunked", "truncated"]


@dataclass(frozen=True)
class Rows:
    """Rows to train on or to score: `tokens` are read, `labels` are predicted (-100: not counted).

    `attention` is 1 for text and 0 for padding; None where padding is not counted, for then nothing looks at it.
    """

    tokens: Int[Tensor, "row token"]
    labels: Int[Tensor, "row token"]
    attention: Int[Tensor, "row token"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def inputs(self, rows: slice = slice(None)) -> dict[str, Tensor]:
        """What a model of transformers is called with, for these rows."""
        named = {"input_ids": self.tokens, "labels": self.labels, "attention_mask": self.attention}
        return {name: value[rows] for name, value in named.items() if value is not None}


def rows_of(
    texts: Sequence[str], model: Model, length: int, layout: Layout = "joined", *, padding_in_loss: bool = False
) -> Rows:
    """The texts as rows of `length` tokens, the last of a text (or of all, where joined) padded to the right.

    `joined`: end to end, each closed by the end-of-text token. `chunked`: each text cut on its own, nothing lost.
    `truncated`: the first `length` tokens of each text. Padding is the tokenizer's, else the end-of-text token.

    Raises InputError where there is no text, no end-of-text token, or a row is longer than the model reads.
    """
    end = _checked_end(texts, model, length)
    with quiet():  # the tokenizer warns of long texts, which are cut here
        encoded = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    if layout == "joined":
        encoded = [[token for ids in encoded for token in (*ids, end)]]
    most = length if layout == "truncated" else None
    pieces = [ids[start : start + length] for ids in encoded for start in range(0, len(ids[:most]), length)]
    labels = torch.full((len(pieces), length), IGNORED)
    for row, piece in enumerate(pieces):
        labels[row, : len(piece)] = torch.tensor(piece)
    attention = (labels != IGNORED).long()
    pad = model.tokenizer.pad_token_id
    tokens = torch.where(attention.bool(), labels, end if pad is None else pad)
    return Rows(tokens, tokens, attention) if padding_in_loss else Rows(tokens, labels)


def comparable_rows(texts: Sequence[str], model: Model) -> Rows:
    """The rows over which losses of any two configurations of one tokenizer may be compared.

    Every token of every text, cut text by text into 512 (or the context, where it is shorter), padding left out.
    """
    return rows_of(texts, model, min(COMPARABLE_LENGTH, model.context or COMPARABLE_LENGTH), "chunked")


def mean_loss(hf: torch.nn.Module, rows: Rows, batch_size: int) -> float:
    """Mean loss over every token that is counted, in nats; each token weighs the same."""
    total, count, device = 0.0, 0, next(hf.parameters()).device
    hf.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            inputs = {name: value.to(device) for name, value in rows.inputs(slice(start, start + batch_size)).items()}
            targets = int((inputs["labels"][:, 1:] != IGNORED).sum())
            if targets:
                total += hf(**inputs, use_cache=False).loss.item() * targets
                count += targets
    return total / count if count else float("nan")


def _checked_end(texts: Sequence[str], model: Model, length: int) -> int:
    """The end-of-text token, after the checks of `rows_of`."""
    end, context = model.tokenizer.eos_token_id, model.context or length
    if end is None:
        raise InputError("finetune-no-end", "the tokenizer has no end-of-text token", fix="set its eos_token")
    if not 1 < length <= context:
        raise InputError(
            "finetune-block-length",
            f"a block of {length} tokens does not fit a model that reads {context}",
            fix=f"set block_length between 2 and {context}",
        )
    if not any(texts):
        raise InputError("finetune-no-text", "there is no text to train on", fix="give at least one document")
    return int(end)
