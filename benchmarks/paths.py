"""Path patching of all heads into all later heads' q, k and v: Patchlight beside plain hooks and TransformerLens.

    python -m benchmarks.paths                                   GPT-2 small in shape, one pair of 16 tokens
    python -m benchmarks.paths --differ 10 --lens /path/to/python    with TransformerLens 4.3 from its own environment

Patchlight does every path. The others spend a whole forward on each, whichever it is, so that they do a random sample
of the paths and their time is scaled to all. Plain hooks are batched (128 rows a forward, one receiver's layer each),
take the last position's logits only, and share the frozen forward of each sender among its receivers; as it is
usually written, with a frozen forward for each path, they take twice as long. All on the processor; the figure is CPU
time of the process, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.speed.models import model_folder
from benchmarks.speed.work import Prompts, random_prompts

ROWS = 128


class Edge(NamedTuple):
    """A path from one head to another's queries, keys or values."""

    layer: int
    head: int
    part: str
    to_layer: int
    to_head: int


def edges(layers: int, heads: int) -> list[Edge]:
    """Every path."""
    places = [(layer, head) for layer in range(layers) for head in range(heads)]
    return [Edge(*one, part, *other) for one in places for part in "qkv" for other in places if other[0] > one[0]]


def patchlight(folder: Path, prompts: Prompts) -> tuple[Tensor, float, list[Any]]:
    """Patchlight's values `[pair, sender, receiver]`, its seconds of CPU time, and the ends of the paths."""
    from patchlight import TokenPair, load_model
    from patchlight.trace.paths import paths

    model = load_model(str(folder))
    rows = zip(prompts.donor, prompts.recipient, prompts.answers, strict=True)
    pairs = [TokenPair(tuple(one), tuple(other), (right,), (wrong,)) for one, other, (right, wrong) in rows]
    paths(model, pairs[:1], senders="blocks.0.head_out.0", receivers="blocks.1.q.0")  # warm: weights are packed
    begun = time.process_time()
    found = paths(model, pairs, senders="head_out", receivers=["q", "k", "v"])
    seconds = time.process_time() - begun
    return torch.from_numpy(found.values), seconds, [found.senders, [sites[0] for sites in found.receivers]]


def plain_hooks(folder: Path, prompts: Prompts, some: Sequence[Edge]) -> tuple[Tensor, float]:
    """The same paths with hooks on the stock model, `[edge, pair]`, and seconds of CPU time a row of its second step.

    The first step, a frozen forward for each sender, is not counted: over all receivers it is nearly nothing.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    donor, recipient = torch.tensor(prompts.donor), torch.tensor(prompts.recipient)
    answers, blocks, width = torch.tensor(prompts.answers), model.transformer.h, model.config.n_embd
    dim = width // model.config.n_head
    kept = {name: _kept(model, ids) for name, ids in (("donor", donor), ("recipient", recipient))}
    read = {sender: _frozen(model, recipient, kept, *sender) for sender in sorted({edge[:2] for edge in some})}
    values, seconds = torch.zeros(len(some), len(recipient)), 0.0
    order = sorted(range(len(some)), key=lambda index: some[index].to_layer)
    pairs, at_once = len(recipient), max(1, ROWS // len(recipient))
    for layer in {edge.to_layer for edge in some}:
        mine = [index for index in order if some[index].to_layer == layer]
        for start in range(0, len(mine), at_once):
            group = mine[start : start + at_once]

            def edit(_: Any, __: Any, output: Tensor, group: list[int] = group) -> Tensor:
                for rows, index in zip(output.split(pairs), group, strict=True):
                    edge = some[index]
                    first = "qkv".index(edge.part) * width + edge.to_head * dim
                    rows[..., first : first + dim] = read[edge[:2]][edge.to_layer][..., first : first + dim]
                return output

            handle = blocks[layer].attn.c_attn.register_forward_hook(edit)
            begun = time.process_time()
            logits = model(recipient.repeat(len(group), 1), use_cache=False, logits_to_keep=1).logits[:, -1]
            seconds += time.process_time() - begun
            handle.remove()
            right, wrong = logits.gather(1, answers.repeat(len(group), 1)).unbind(1)
            values[group] = (right - wrong).view(len(group), -1)
    return values, seconds / (len(some) * pairs)


def _kept(model: Any, ids: Tensor) -> list[dict[str, Tensor]]:
    """What every head, attention and MLP of a run gives."""
    kept: list[dict[str, Tensor]] = [{} for _ in model.transformer.h]
    handles = []
    for mine, block in zip(kept, model.transformer.h, strict=True):
        projection = block.attn.c_proj
        handles += [
            projection.register_forward_pre_hook(lambda _, args, mine=mine: mine.update(heads=args[0].clone())),
            projection.register_forward_hook(lambda _, __, output, mine=mine: mine.update(attention=output.clone())),
            block.mlp.register_forward_hook(lambda _, __, output, mine=mine: mine.update(mlp=output.clone())),
        ]
    model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return kept


def _frozen(model: Any, recipient: Tensor, kept: Any, layer: int, head: int) -> list[Tensor]:
    """Queries, keys and values of every layer while one head is the donor's and all else the recipient's."""
    found: list[Tensor] = []
    dim = model.config.n_embd // model.config.n_head
    mixed = kept["recipient"][layer]["heads"].clone()
    mixed[..., head * dim : (head + 1) * dim] = kept["donor"][layer]["heads"][..., head * dim : (head + 1) * dim]
    handles = []
    for at, block in enumerate(model.transformer.h):
        attention = kept["recipient"][at]["attention"]
        if at == layer:
            attention = torch.nn.functional.linear(mixed, block.attn.c_proj.weight.t(), block.attn.c_proj.bias)
        mlp = kept["recipient"][at]["mlp"]
        handles += [
            block.attn.c_attn.register_forward_hook(lambda _, __, output: found.append(output.clone())),
            block.attn.c_proj.register_forward_hook(lambda _, __, ___, given=attention: given),
            block.mlp.register_forward_hook(lambda _, __, ___, given=mlp: given),
        ]
    model(recipient, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


LENS = """
import json, sys, time, torch
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
torch.set_num_threads(1); torch.set_grad_enabled(False)
job = json.load(sys.stdin)
model = TransformerBridge.boot_transformers(job["folder"], device="cpu", dtype=torch.float32).eval()
donor, recipient, answers = (torch.tensor(job[name]) for name in ("donor", "recipient", "answers"))
caches = [model.run_with_cache(ids)[1] for ids in (donor, recipient)]
def metric(logits):
    right, wrong = logits[:, -1].gather(1, answers).unbind(1)
    return (right - wrong).mean()
begun = time.process_time()
patched = patching.get_act_patch_direct_path
found = patched(model, recipient, *caches, metric, *job["sender"], component=job["part"], verbose=False)
print(json.dumps({"seconds": time.process_time() - begun, "values": found.tolist()}))
"""


def lens(python: str, folder: Path, prompts: Prompts, sender: tuple[int, int], part: str) -> tuple[Tensor, float]:
    """TransformerLens's mean values over pairs from one head into all later ones, and CPU seconds for each path."""
    job = {**asdict(prompts), "folder": str(folder), "sender": sender, "part": part}
    done = subprocess.run([python, "-c", LENS], input=json.dumps(job), capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    values = torch.tensor(answer["values"])
    return values, answer["seconds"] / ((values.shape[0] - 1 - sender[0]) * values.shape[1])


def main() -> None:
    """Prints the times and the largest differences."""
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as made:
        folder = model_folder("gpt2-small", asked.layers, Path(made))
        differing = range(asked.tokens) if asked.differ == "all" else [int(at) for at in asked.differ.split(",")]
        prompts = random_prompts(asked.pairs, asked.tokens, differing, 50257)
        values, ours, (senders, receivers) = patchlight(folder, prompts)
        place = {str(site): number for number, site in enumerate(senders)}
        target = {str(site): number for number, site in enumerate(receivers)}
        every = edges(senders[-1].layer + 1, senders[-1].unit + 1)
        print(f"{len(every)} paths in {asked.pairs} pairs, {asked.threads} thread(s), CPU time")
        print(f"patchlight          {ours:9.1f} s")
        some = random.Random(0).sample(every, asked.sample)
        found, a_row = plain_hooks(folder, prompts, some)
        names = [
            (place[f"blocks.{e.layer}.head_out.{e.head}"], target[f"blocks.{e.to_layer}.{e.part}.{e.to_head}"])
            for e in some
        ]
        mine = torch.stack([values[:, one, other] for one, other in names])
        _line("plain hooks, shared", a_row * len(every) * asked.pairs, ours, (mine - found).abs().max())
        _line("plain hooks, usual", 2 * a_row * len(every) * asked.pairs, ours, (mine - found).abs().max())
        if asked.lens:
            sender = (senders[-1].layer - 2, 3)
            found, a_path = lens(asked.lens, folder, prompts, sender, "q")
            row = values.mean(0)[place[f"blocks.{sender[0]}.head_out.{sender[1]}"]]
            mine = torch.stack(
                [
                    row[target[f"blocks.{layer}.q.{head}"]]
                    for layer in range(sender[0] + 1, len(found))
                    for head in range(found.shape[1])
                ]
            )
            _line("TransformerLens", a_path * len(every), ours, (mine - found[sender[0] + 1 :].flatten()).abs().max())


def _line(name: str, seconds: float, ours: float, difference: Tensor) -> None:
    print(f"{name:19s} {seconds:9.1f} s  {seconds / ours:5.1f}x  largest difference {float(difference):.1e} logits")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.paths", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--differ", default="4,9", help="all, or the positions where the pairs differ")
    parser.add_argument("--layers", type=int, help="make the model shallower")
    parser.add_argument("--sample", type=int, default=512, help="paths that plain hooks do")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lens", help="the Python of an environment with TransformerLens 4.3")
    return parser


if __name__ == "__main__":
    main()
