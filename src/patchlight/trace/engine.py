"""Replay captured runs with activations replaced: exact, and nothing computed that a patch cannot change.

One pass over the layers serves many rows. A row joins at its first patched layer, with the positions from its first
patched one on; the rest of its state is the recipient's. The tokens of all rows lie end to end, without padding, and
go through the stock Hugging Face blocks; attention gets the recipient's keys and values of the earlier positions. In
the last layer one query a row is computed. Families whose attention cannot be reached run whole prompts instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch

from patchlight.errors import GateFailed
from patchlight.trace.capture import Run
from patchlight.trace.hooks import at_positions, attention, hooked, whole_arguments
from patchlight.trace.pieces import Piece, by_row, chunks, groups, joined
from patchlight.trace.rows import ALL, COMPONENTS, OWN_POSITION, Rows, among

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

ABSENT = -(1 << 40)


@torch.inference_mode()
def replay(
    model: Model,
    recipient: Run,
    donor: Run,
    rows: Rows,
    *,
    memory: int,
    differs: Bool[Tensor, "pair position"] | None = None,
    on_pass: Callable[[int], None] | None = None,
) -> Float[Tensor, "row step width"]:
    """The normed stream at the recipient's read positions after the replacements of each row, taken from `donor`.

    `memory` in bytes bounds the state of one pass; rows are cut into passes in their order. `differs` says which
    tokens give donor and recipient different activations (by default, those whose ids differ); what they cannot
    reach is not run. `on_pass` gets the number of rows that each pass has done. Raises GateFailed where a patch was
    not applied.
    """
    result = recipient.final[rows.pair.to(model.device)]
    working = rows.working(recipient.ids != donor.ids if differs is None else differs, model.n_layers, recipient.read)
    live = working.live
    for part in _passes(working.take(live), recipient, model, memory):
        result[live[part].to(model.device)] = _Pass(model, recipient, donor, working.take(live[part])).run()
        if on_pass:
            on_pass(len(part))
    return result


def needed(component: str, model: Model) -> tuple[set[str], set[str]]:
    """What `capture` must keep of a recipient and of a donor, so that `component` can be replaced."""
    recipient = {"k", "v"} if model.family.interface else set()
    if component == "mlp_out" or (component == "attn_out" and model.parallel):
        recipient.add(component)  # joins by its difference
    elsewhere = component in ("embed", "resid_pre", "resid_post", "final_norm", "logits")
    return recipient, set() if elsewhere else {component}


def _passes(rows: Rows, recipient: Run, model: Model, memory: int) -> Iterator[Int[Tensor, "some"]]:
    """Cuts rows, in order, so that the tokens of each part fit."""
    per_token = model.width * recipient.final.element_size() * 4  # the stream twice while rows join, and calls
    size = recipient.length - rows.first(rows.position)
    if not model.family.interface:
        size = torch.full_like(size, recipient.length)
    part = (size.cumsum(0) - 1) // max(recipient.length, memory // per_token)
    for number in part.unique():
        yield (part == number).nonzero().squeeze(1)


class _Enough(Exception):
    pass


class _Pass:
    """One pass over the layers for some rows, each of which replaces something."""

    def __init__(self, model: Model, recipient: Run, donor: Run, rows: Rows) -> None:
        self.model, self.recipient, self.donor, self.rows = model, recipient, donor, rows
        self.length, self.packed = recipient.length, model.family.interface
        self.join = rows.first(rows.layer)
        self.start = rows.first(rows.position) if self.packed else torch.zeros_like(rows.pair)
        self.known, self.alone = _shortcuts(rows, self.join, model)
        self.patches = {
            (layer, COMPONENTS[component]): ((rows.layer == layer) & (rows.component == component)).nonzero().squeeze(1)
            for layer, component in torch.stack([rows.layer, rows.component]).unique(dim=1).T.tolist()
        }
        self.applied = torch.zeros_like(rows.row, dtype=torch.bool)
        self.read = recipient.read
        self.final = recipient.sites["resid_pre"][-1][rows.pair, -self.read :]
        self.pieces: dict[int, Piece] = {}  # by start
        # The call in progress, for the hooks and the attention within it.
        self.layer, self.mode = 0, "whole"
        self.chunk: list[Piece] = []
        self.flat = self.final
        self.base = torch.full_like(rows.pair, ABSENT)  # where a row's position 0 would lie in `flat`
        self.whole: list[Piece] = []
        self.stash = (self.final, self.final)

    def run(self) -> Float[Tensor, "row step width"]:
        """The normed stream at the positions that are read, row by row."""
        names = {name for _, name in self.patches} & {"head_out", "attn_out", "resid_mid", "mlp_hidden", "mlp_out"}
        acts = {"attn_out" if name == "resid_mid" else name for name in names}
        with ExitStack() as stack:
            if self.packed:
                stack.enter_context(attention(self.model, self._attend))
            stack.enter_context(hooked(self.model, {name: self._editor(name) for name in sorted(acts)}))
            for layer in range(self.model.n_layers):
                self.layer = layer
                self._step()
        at_end = self.patches.get((self.model.n_layers, "resid_pre"), self.join[:0])
        step = self.rows.position[at_end] - self.length + self.read
        self.final[self.rows.row[at_end], step] = self._given("resid_pre", self.model.n_layers, at_end)
        self.applied[at_end] = True
        if not bool(self.applied.all()):
            missed = self.rows.take(self.rows.row[~self.applied][:1])
            what = (
                f"a patch of {COMPONENTS[int(missed.component[0])]} in layer {int(missed.layer[0])} was never applied"
            )
            fix = "the entry of this architecture in patchlight/model/families.py does not fit this model"
            raise GateFailed("trace-site-not-hit", what, where=self.model.name, fix=fix)
        return self.model.normed(self.final)

    # ---- one layer

    def _step(self) -> None:
        """Takes all rows that have joined through one layer, and lets its rows join."""
        joining = ((self.join == self.layer) & ~self.known).nonzero().squeeze(1)
        self._add(self.layer, joining[self.alone[joining] < 0])
        whole = [self.pieces[start] for start in sorted(self.pieces)]
        stream = self.recipient.sites["resid_pre"][self.layer]
        single = [
            Piece(rows, at, stream[self.rows.pair[rows], at : at + 1])
            for at, rows in groups(joining[self.alone[joining] >= 0], self.alone)
        ]
        after = self._through(whole + single)
        known, positions, vectors = self._known_changes()
        for piece in after[len(whole) :]:
            known = torch.cat([known, piece.rows])
            positions = torch.cat([positions, self.alone[piece.rows]])
            vectors = torch.cat([vectors, piece.stream[:, 0]])
        if self.layer == self.model.n_layers - 1:
            self.final[known, positions - self.length + self.read] = vectors
            for piece in after[: len(whole)]:
                steps = min(self.read, piece.size)
                self.final[piece.rows, self.read - steps :] = piece.stream[:, -steps:]
            return
        self.pieces = {piece.start: piece for piece in after[: len(whole)]}
        self._add(self.layer + 1, known, positions, vectors)

    def _add(self, layer: int, rows: Tensor, positions: Tensor | None = None, vectors: Tensor | None = None) -> None:
        """Rows go on from the recipient's stream before a layer, with these vectors at these positions."""
        order = torch.full_like(self.rows.pair, ABSENT)
        order[rows] = torch.arange(len(rows))
        for start, group in groups(rows, self.start):
            stream = self.recipient.sites["resid_pre"][layer][self.rows.pair[group], start:]
            if positions is not None and vectors is not None:
                chosen = order[group]
                stream[torch.arange(len(group)), positions[chosen] - start] = vectors[chosen]
            parts = [Piece(group, start, stream)]
            self.pieces[start] = joined([self.pieces[start], *parts] if start in self.pieces else parts)

    def _known_changes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows that start with a sublayer's output: the stream behind the layer changes by a known difference."""
        rows, positions, vectors = [self.join[:0]], [self.join[:0]], [self.final[:0, 0]]
        for name in ("attn_out", "mlp_out"):
            patches = self.patches.get((self.layer, name), self.join[:0])
            row = self.rows.row[patches]
            chosen = patches[self.known[row] & (self.join[row] == self.layer)]
            at = self.rows.pair[self.rows.row[chosen]], self.rows.position[chosen]
            if len(chosen):
                change = self.donor.sites[name][self.layer][at] - self.recipient.sites[name][self.layer][at]
                rows.append(self.rows.row[chosen])
                positions.append(at[1])
                vectors.append(
                    self.recipient.sites["resid_pre"][self.layer + 1][at] + self.model.residual_scale * change
                )
                self.applied[chosen] = True
        return torch.cat(rows), torch.cat(positions), torch.cat(vectors)

    def _through(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces after the layer; after the last one, of whole suffixes only the positions that are read."""
        after: dict[int, list[Piece]] = {number: [] for number in range(len(pieces))}
        for numbers, chunk in chunks(pieces, together=self.packed):
            self.chunk = chunk
            output = self._call()
            sizes = [piece.tokens for piece in self.chunk]
            for number, piece, part in zip(numbers, self.chunk, output.split(sizes), strict=True):
                stream = part.view(len(piece.rows), piece.size, -1)
                after[number].append(Piece(piece.rows, piece.start, stream))
        return [joined(parts) for parts in after.values()]

    def _call(self) -> Float[Tensor, "token width"]:
        """The chunk's tokens after the block; in the last layer `chunk` is left with the read positions only."""
        self.flat = torch.cat([piece.stream.reshape(-1, self.model.width) for piece in self.chunk])
        self._place()
        self._edit("resid_pre", self.flat)
        if not self.packed:
            arguments = whole_arguments(self.model, len(self.chunk[0].rows), self.length)
            return self._block(self.flat.view(-1, self.length, self.model.width), arguments)
        self.mode = "whole"
        if self.layer == self.model.n_layers - 1 and any(piece.size > self.read for piece in self.chunk):
            self.mode = "stash"
            with suppress(_Enough):
                self._packed_block()
            self._keep_last()
        return self._packed_block()

    def _keep_last(self) -> None:
        """Leaves the tokens that are read: nothing after the last layer reads the others."""
        self.whole, self.mode = self.chunk, "last"
        offset, streams = 0, []
        for piece in self.chunk:
            steps = min(self.read, piece.size)
            stream = self.flat[offset : offset + piece.tokens].view(len(piece.rows), piece.size, -1)[:, -steps:]
            offset += piece.tokens
            streams.append(Piece(piece.rows, piece.stop - steps, stream))
        self.chunk = streams
        self.flat = torch.cat([piece.stream.flatten(0, 1) for piece in self.chunk])
        self._place()

    def _place(self) -> None:
        self.base.fill_(ABSENT)
        offset = 0
        for piece in self.chunk:
            count = len(piece.rows)
            self.base[piece.rows] = offset - piece.start + piece.size * torch.arange(count)
            offset += count * piece.size

    def _packed_block(self) -> Float[Tensor, "token width"]:
        positions = torch.cat([piece.positions for piece in self.chunk])
        arguments = at_positions(self.recipient.arguments[self.layer], self.length, positions)
        return self._block(self.flat.unsqueeze(0), arguments)

    def _block(self, stream: Tensor, arguments: dict[str, Any]) -> Float[Tensor, "token width"]:
        output = self.model.layers[self.layer](stream, **arguments)
        after: Tensor = output[0] if isinstance(output, tuple) else output
        return after.reshape(-1, self.model.width)

    # ---- within a block

    def _attend(self, stock: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, _: Any, **rest: Any) -> Any:
        """Attention of packed tokens: each row sees the recipient's keys and values before its own."""
        if self.mode != "last":
            self._edit("k", k[0].transpose(0, 1))
            self._edit("v", v[0].transpose(0, 1))
        if self.mode == "stash":
            self.stash = (k, v)
            raise _Enough
        self._edit("q", q[0].transpose(0, 1))
        own, (k, v) = (self.whole, self.stash) if self.mode == "last" else (self.chunk, (k, v))
        mask = self.recipient.arguments[self.layer]["attention_mask"][:1]
        outputs, query, key = [], 0, 0
        for piece, suffix in zip(self.chunk, own, strict=True):
            count, queries, keys = len(piece.rows), slice(query, query + piece.tokens), slice(key, key + suffix.tokens)
            query, key = queries.stop, keys.stop
            values = self._with_earlier("v", by_row(v, keys, count), suffix)
            output, _ = stock(
                module,
                by_row(q, queries, count),
                self._with_earlier("k", by_row(k, keys, count), suffix),
                values,
                mask[:, :, piece.start : piece.stop, : suffix.stop],
                **rest,
            )
            outputs.append(output.reshape(piece.tokens, *output.shape[2:]))
            self._weigh(outputs[-1], queries.start, values)
        return torch.cat(outputs).unsqueeze(0), None

    def _weigh(self, output: Float[Tensor, "token head head_dim"], offset: int, values: Tensor) -> None:
        """Where the pattern is replaced: the donor's weights over the row's own values."""
        patches, token = self._here("pattern", offset, offset + len(output))
        if not len(patches):
            return
        pair, position = self.rows.pair[self.rows.row[patches]], self.rows.position[patches]
        weights = self.donor.sites["pattern"][self.layer][pair, :, position, : values.shape[2]]
        row = (token - offset) // (len(output) // len(values))
        every_head = values[row].repeat_interleave(weights.shape[1] // values.shape[1], dim=1)
        weighed = torch.einsum("phk,phkd->phd", weights, every_head)
        unit = self.rows.unit[patches]
        whole, part = unit == ALL, unit != ALL
        output[token[whole] - offset] = weighed[whole]
        output[token[part] - offset, unit[part]] = weighed[part, unit[part]]

    def _with_earlier(self, name: str, own: Tensor, piece: Piece) -> Float[Tensor, "row head position head_dim"]:
        if piece.start == 0:
            return own
        earlier = self.recipient.sites[name][self.layer][self.rows.pair[piece.rows], :, : piece.start]
        return torch.cat([earlier, own], dim=2)

    def _editor(self, name: str) -> Callable[[int, Tensor], Tensor]:
        def edit(_: int, tensor: Tensor) -> Tensor:
            tensor = tensor.contiguous()
            flat = tensor.view(-1, tensor.shape[-1])
            self._edit(name, flat)
            if name == "attn_out":
                self._edit("resid_mid", flat)
            return tensor

        return edit

    def _edit(self, name: str, flat: Float[Tensor, "token ..."]) -> None:
        """Replaces what the rows of this call replace of a component in this layer, in place."""
        patches, token = self._here(name, 0, len(flat))
        if not len(patches):
            return
        unit = self.rows.unit[patches]
        whole, part = unit == ALL, unit != ALL
        value = self._given(name, self.layer, patches[whole])
        if name == "resid_mid":
            value = (value - self.flat[token[whole]]) / self.model.residual_scale
        flat[token[whole]] = value
        if bool(part.any()):
            width = flat.shape[-1] if flat.dim() == 3 else self.model.head_dim if name == "head_out" else 1
            units = flat if flat.dim() == 3 else flat.view(len(flat), -1, width)
            units[token[part], unit[part]] = self._given(name, self.layer, patches[part], width)

    def _here(self, name: str, first: int, stop: int) -> tuple[Int[Tensor, "patch"], Int[Tensor, "patch"]]:
        """The patches of a component that lie among these tokens of the call, now applied, and their tokens."""
        patches = self.patches.get((self.layer, name))
        if patches is None:
            return self.join[:0], self.join[:0]
        token = self.base[self.rows.row[patches]] + self.rows.position[patches]
        among_these = (token >= first) & (token < stop)
        self.applied[patches[among_these]] = True
        return patches[among_these], token[among_these]

    def _given(self, name: str, layer: int, patches: Tensor, width: int = 0) -> Tensor:
        """What the donor has at the sites of these patches; `width` is that of a unit, where only units are wanted."""
        pair, position = self.rows.pair[self.rows.row[patches]], self.rows.position[patches]
        source = self.donor.sites[name][layer]
        if name in ("q", "k", "v"):
            return source[pair, self.rows.unit[patches], position] if width else source[pair, :, position]
        if not width:
            return source[pair, position]
        units: Tensor = source.unflatten(-1, (-1, width))
        return units[pair, position, self.rows.unit[patches]]


def _shortcuts(rows: Rows, join: Int[Tensor, "row"], model: Model) -> tuple[Tensor, Tensor]:
    """Which rows join by a known difference behind their first layer; the one position that others change in it, or -1.

    A sublayer's output joins by its difference where nothing in the block reads it: the MLP's everywhere, the
    attention's in a parallel block. Components other than keys, values and the stream change their own position only.
    """
    at_join = rows.layer == join[rows.row]
    row, position = rows.row[at_join], rows.position[at_join]
    many = torch.zeros_like(rows.pair)
    last_words = among(rows.component, ("mlp_out", "attn_out") if model.parallel else ("mlp_out",))
    others = many.index_add(0, row, (~last_words[at_join]).long())
    known = (torch.bincount(row, minlength=len(rows.pair)) == 1) & (others == 0)
    spread = many.index_add(0, row, (~among(rows.component, OWN_POSITION)[at_join]).long())
    low = torch.full_like(rows.pair, ABSENT).scatter_reduce(0, row, position, "amin", include_self=False)
    high = torch.full_like(rows.pair, ABSENT).scatter_reduce(0, row, position, "amax", include_self=False)
    alone = (spread == 0) & (low == high) & model.family.interface
    return known, torch.where(alone, low, -1)
