"""Run as a process of its own: a sweep whose budget is larger than what the process may have (argument: MiB)."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from patchlight.errors import BudgetExceeded
from patchlight.model.anatomy import Model
from patchlight.records import TokenPair
from patchlight.trace.sweep import sweep

PAIRS, LENGTH, WIDTH = 200, 60, 512

torch.set_num_threads(1)
words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(PAIRS + 1)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
config = GPT2Config(
    vocab_size=PAIRS + 1, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=LENGTH, bos_token_id=0, eos_token_id=0
)
model = Model(GPT2LMHeadModel(config), tokenizer, "wide")
pairs = [TokenPair((1,) * LENGTH, (1,) * (LENGTH - 1) + (number,), (2,), (3,)) for number in range(2, PAIRS + 1)]
whole = sweep(model, pairs[:2], component="final_norm")


def tried(mebibytes: int) -> str:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (mebibytes << 20), resource.RLIM_INFINITY))
    batches: list[int] = []
    try:
        effects = sweep(
            model, pairs, component="final_norm", memory=1 << 31, on_progress=lambda done, _: batches.append(done)
        )
    except BudgetExceeded as refused:
        return refused.code
    right = abs(effects.values[:2] - whole.values).max() < 1e-4
    return f"{len(batches)} batches, {len(effects.values)} pairs, right: {right}"


print(tried(int(sys.argv[1])))
