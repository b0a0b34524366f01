"""Replay captured runs with activations replaced: exact, and nothing computed that a patch cannot change.

One pass over the layers serves many rows. A row enters at its first patched layer, with the positions from its first
patched one on; the rest of its state is the recipient's. The tokens of all rows lie end to end, without padding, and
go through the stock Hugging Face blocks; attention gets the recipient's keys and values of the earlier positions. In
the layer where a row enters, queries, keys and values are computed for what is new alone; in the last layer only the
positions that are read are queries. Families whose attention cannot be reached get the recipient's keys and values
as a cache, one start a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from patchlight.errors import InputError
from patchlight.trace.abreast import Stopped, abreast, lanes
from patchlight.trace.capture import Run
from patchlight.trace.held import Held, New
from patchlight.trace.hooks import at_positions, attention, hooked
from patchlight.trace.kernels import Projections, faster
from patchlight.trace.past import ARGUMENT, Past, suffix_arguments
from patchlight.trace.patches import ABSENT, Patches, hooked_components
from patchlight.trace.pieces import KEPT, RUN, TAKEN, Piece, by_row, chunks, groups
from patchlight.trace.plan import Plan, shares
from patchlight.trace.rows import Rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model


@torch.inference_mode()
def replay(
    model: Model,
    recipient: Run,
    donor: Run,
    rows: Rows,
    *,
    memory: int,
    differs: Bool[Tensor, "pair position"] | None = None,
    products: str = "exact",
    on_pass: Callable[[int], None] | None = None,
    normed: bool = True,
) -> Float[Tensor, "row step width"]:
    """The stream, `normed` or not, at the recipient's read positions after each row's replacements from `donor`.

    `memory` in bytes bounds the state of one pass; rows are cut into passes in their order. `differs` says which
    tokens give donor and recipient different activations (by default, those whose ids differ); what they cannot
    reach is not run. `on_pass` gets the number of rows that each pass has done. Raises GateFailed where a patch was
    not applied, InputError for a recipient that took over the beginning of another run.
    """
    if recipient.start:
        what = f"the recipient's run was captured from position {recipient.start} on"
        raise InputError("trace-recipient-cut", what, fix="capture it without `before`")
    usual = recipient.final if normed else recipient.sites["resid_pre"][-1][:, -recipient.read :]
    result = usual[rows.pair.to(usual.device)]
    differs = recipient.ids != donor.ids if differs is None else differs
    working = rows.working(differs, model.n_layers, recipient.read)
    live = working.live
    count = lanes(model.device)
    per_token = model.width * result.element_size() * 3 // 2  # the stream, and vectors on their way in
    cut = shares(working.take(live), model.n_layers, recipient.length, count, memory // count // per_token)
    parts = [live[part] for part in cut]
    with faster(model, products) as projections, _ways_in(model, working):
        passes = [partial(_passed, model, recipient, donor, working.take(part), projections) for part in parts]
        for place, stream in abreast(passes, count):
            result[parts[place].to(result.device)] = (model.normed(stream) if normed else stream).to(result.device)
            if on_pass:
                on_pass(len(parts[place]))
    return result


@contextmanager
def _ways_in(model: Model, rows: Rows) -> Iterator[None]:
    """Within it, the attention and the components of the model are in the hands of the pass that runs in a thread."""

    def act(name: str, layer: int, tensor: Tensor) -> Tensor | None:
        return _running.get().edit(name, layer, tensor)

    with ExitStack() as stack:
        if model.family.interface:
            stack.enter_context(attention(model, lambda *given, **rest: _running.get().attend(*given, **rest)))
        stack.enter_context(hooked(model, {name: partial(act, name) for name in hooked_components(rows)}))
        yield


@torch.inference_mode()
def _passed(
    model: Model, recipient: Run, donor: Run, rows: Rows, projections: Projections, stop: Event
) -> Float[Tensor, "row step width"]:
    """The result of one pass."""
    one = _Pass(model, recipient, donor, rows, projections, stop)
    _running.set(one)  # each pass has a context of its own
    return one.run()


class _Enough(Exception):
    pass


class _Pass:
    """One pass over the layers for some rows, each of which replaces something."""

    def __init__(
        self, model: Model, recipient: Run, donor: Run, rows: Rows, projections: Projections, stop: Event
    ) -> None:
        self.model, self.recipient, self.donor, self.rows = model, recipient, donor, rows
        self.length, self.read, self.packed = recipient.length, recipient.read, model.family.interface
        self.projections, self.stop = projections, stop
        self.plan = Plan.of(rows, model, recipient.sites)
        self.patches = Patches(model, donor, rows)
        self.final = recipient.sites["resid_pre"][-1][rows.pair, -self.read :]
        self.held = Held(self.plan, self.length, model.n_layers, self.final)
        # The layer and the call in progress, for the hooks and the attention within it.
        self.layer = 0
        self.new = self._nothing()
        self.fresh: tuple[Tensor, ...] = ()  # queries, keys and values of the new vectors
        self.chunk: list[Piece] = []
        self.flat = self.final[:0, 0]
        self.base = torch.full_like(rows.pair, ABSENT)  # where a row's position 0 would lie in `flat`
        self.stash: list[Tensor] | None = None  # where attention leaves its input, instead of running

    def run(self) -> Float[Tensor, "row step width"]:
        """The stream in front of the final norm at the positions that are read, row by row."""
        for layer in range(self.model.n_layers):
            self.layer = layer
            self._step()
        self._finish(self.new.rows, self.plan.position[self.new.rows], self.new.vectors)
        at_end = self.patches.of("resid_pre", self.model.n_layers)
        self._finish(*self.patches.mark(at_end), self.patches.given("resid_pre", self.model.n_layers, at_end))
        self.patches.require_applied()
        return self.final

    def _nothing(self) -> New:
        return New(self.rows.pair[:0], self.final[:0, 0], len(self.rows.pair))

    def _finish(self, rows: Tensor, positions: Tensor, vectors: Tensor) -> None:
        self.final[rows, positions - self.length + self.read] = vectors

    # ---- one layer

    def _step(self) -> None:
        """Lets rows enter, and takes all that have entered through the layer."""
        layer, last = self.layer, self.layer == self.model.n_layers - 1
        self.new = self._arriving()
        self.held.enter(layer, self.recipient.sites["resid_pre"][layer], self.rows.pair, self.new)
        self._edit_streams()
        self._refresh()
        for piece, after in self._through(self.held.pieces(layer)):
            if last:
                self.final[piece.rows, self.read - piece.size :] = after
            else:
                piece.stream.copy_(after)
        self.new = self._leaving()

    def _arriving(self) -> New:
        """The vectors that make the difference where rows enter: from the layer before, or given by the donor."""
        patches = self.patches.of("resid_pre", self.layer)
        row = self.rows.row[patches]
        patches = patches[self.plan.by_stream[row] & (self.plan.enter[row] == self.layer)]
        rows, _ = self.patches.mark(patches)
        vectors = self.patches.given("resid_pre", self.layer, patches)
        return New(torch.cat([self.new.rows, rows]), torch.cat([self.new.vectors, vectors]), len(self.rows.pair))

    def _edit_streams(self) -> None:
        """Replaces the stream of rows that are under way, or that enter with several replacements of it."""
        patches = self.patches.of("resid_pre", self.layer)
        patches = patches[~self.patches.applied[patches]]
        if len(patches):
            self.held.put(*self.patches.mark(patches), self.patches.given("resid_pre", self.layer, patches))

    def _refresh(self) -> None:
        """Queries, keys and values of the new vectors, for the rows that keep the recipient's of all else."""
        kept = self.plan.feed[self.new.rows] == KEPT
        rows = self.new.rows[kept]
        if not len(rows):
            return
        self.new = New(rows, self.new.vectors[kept], len(self.rows.pair))
        pieces = [
            Piece(rows, at, self.new.vectors[self.new.index[rows], None])
            for at, rows in groups(rows, self.plan.position)
        ]
        order = torch.cat([piece.rows for piece in pieces])
        parts = [self._projected(chunk) for chunk in chunks(pieces, together=True)]
        inverse = self.new.index[order].argsort()
        self.fresh = tuple(torch.cat(part, dim=2)[0].transpose(0, 1)[inverse] for part in zip(*parts, strict=True))

    def _leaving(self) -> New:
        """The vectors of rows that ran one position, or nothing, in this layer, behind it."""
        rows, vectors = self._known_changes()
        early = (self.plan.early & (self.plan.join == self.layer)).nonzero().squeeze(1)
        for piece, after in self._through(self._single_pieces(early)):
            rows, vectors = torch.cat([rows, piece.rows]), torch.cat([vectors, after[:, 0]])
        return New(rows, vectors, len(self.rows.pair))

    def _single_pieces(self, early: Int[Tensor, "some"]) -> list[Piece]:
        stream, kept = self.recipient.sites["resid_pre"][self.layer], KEPT if "q" in self.recipient.sites else RUN
        return [
            Piece(rows, at, stream[self.rows.pair[rows], at : at + 1], TAKEN if feed else kept)
            for feed, alike in groups(early, self.plan.late.long())
            for at, rows in groups(alike, self.plan.position)
        ]

    def _known_changes(self) -> tuple[Tensor, Tensor]:
        """Rows that replace a sublayer's output: the stream behind the layer changes by a known difference."""
        rows, vectors = [self.rows.pair[:0]], [self.final[:0, 0]]
        for name in ("attn_out", "mlp_out"):
            patches = self.patches.of(name, self.layer)
            row = self.rows.row[patches]
            chosen = patches[self.plan.known[row] & (self.plan.join[row] == self.layer)]
            if len(chosen):
                row, position = self.patches.mark(chosen)
                at = self.rows.pair[row], position
                change = self.patches.given(name, self.layer, chosen) - self.recipient.sites[name][self.layer][at]
                after = self.recipient.sites["resid_pre"][self.layer + 1][at]
                rows.append(row)
                vectors.append(after + self.model.residual_scale * change)
        return torch.cat(rows), torch.cat(vectors)

    # ---- calls of the block

    def _through(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Float[Tensor, "row position width"]]]:
        """Each piece, in parts, with its stream after the layer; in the last one only of what is read."""
        last = self.layer == self.model.n_layers - 1
        for chunk in chunks([piece for piece in pieces if piece.feed == RUN], together=self.packed):
            yield from self._call(self._for_the_end(chunk) if last else chunk, project=not (last and self.packed))
        for chunk in chunks([piece for piece in pieces if piece.feed != RUN], together=True):
            given = [piece.end(self.read) for piece in chunk] if last else chunk
            yield from self._call(
                [self._taken(piece) if piece.feed == TAKEN else self._kept(piece) for piece in given], project=False
            )

    def _call(
        self, chunk: list[Piece], *, project: bool
    ) -> Iterator[tuple[Piece, Float[Tensor, "row position width"]]]:
        if self.stop.is_set():
            raise Stopped
        self._place(chunk)
        self.projections.on = project
        try:
            output = self._block()
        finally:
            self.projections.on = True
        sizes = [piece.tokens for piece in chunk]
        for piece, after in zip(chunk, output.split(sizes), strict=True):
            yield piece, after.view(len(piece.rows), piece.size, self.model.width)

    def _place(self, chunk: list[Piece]) -> None:
        self.chunk = chunk
        self.flat = chunk[0].flat if len(chunk) == 1 else torch.cat([piece.flat for piece in chunk])
        self.base.fill_(ABSENT)
        offset = 0
        for piece in chunk:
            self.base[piece.rows] = offset - piece.start + piece.size * torch.arange(len(piece.rows))
            offset += piece.tokens

    def _block(self) -> Float[Tensor, "token width"]:
        recorded = self.recipient.arguments[self.layer]
        if self.packed:
            positions = torch.cat([piece.positions for piece in self.chunk])
            arguments, stream = at_positions(recorded, self.length, positions), self.flat.unsqueeze(0)
        else:
            (piece,) = self.chunk
            arguments = suffix_arguments(
                self.model, recorded, self.length, slice(piece.start, piece.stop), len(piece.rows)
            )
            arguments[ARGUMENT] = Past(self._see, self.model.n_kv_heads)
            stream = piece.stream
        output = self.model.layers[self.layer](stream, **arguments)
        after: Tensor = output[0] if isinstance(output, tuple) else output
        return after.reshape(-1, self.model.width).to(self.flat.device)

    def _projected(self, chunk: list[Piece]) -> list[Tensor]:
        """Queries (where they are seen), keys and values of the tokens of a call, and nothing behind them.

        `[1, head, token, head_dim]`, or by way of a cache `[row, head, position, head_dim]`.
        """
        self._place(chunk)
        self.stash = []
        with suppress(_Enough):
            self._block()
        stash, self.stash = self.stash, None
        return stash

    # ---- what attention is given

    def _for_the_end(self, chunk: list[Piece]) -> list[Piece]:
        """Only the positions that are read, as queries to all keys and values: nothing reads the others later."""
        projected = self._projected(chunk)
        ends, offset = [], 0
        for piece in chunk:
            tokens = slice(offset, offset + piece.tokens)
            offset = tokens.stop
            end = piece.end(self.read)
            *queries, k, v = (self._by_row(tensor, tokens, piece) for tensor in projected)
            inside = (*(q[:, :, -end.size :] for q in queries), *self._with_earlier(piece, k, v))
            ends.append(replace(end, inside=inside, feed=KEPT))
        return ends

    def _by_row(self, tensor: Tensor, tokens: slice, piece: Piece) -> Float[Tensor, "row head position head_dim"]:
        return by_row(tensor, tokens, len(piece.rows)) if self.packed else tensor

    def _with_earlier(self, piece: Piece, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a piece's rows, with the recipient's of the positions before."""
        if piece.start == 0:
            return k, v
        pair = self.rows.pair[piece.rows]
        before = [self.recipient.sites[name][self.layer][pair, :, : piece.start].to(k.device) for name in "kv"]
        return torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)

    def _kept(self, piece: Piece) -> Piece:
        """The piece with the recipient's queries, keys and values, the new ones among them."""
        pair = self.rows.pair[piece.rows]
        spans = slice(piece.start, piece.stop), slice(0, piece.stop), slice(0, piece.stop)
        inside = [
            self.recipient.sites[name][self.layer][pair, :, span] for name, span in zip("qkv", spans, strict=True)
        ]
        index = self.new.index[piece.rows]
        changed = (index >= 0).nonzero().squeeze(1)
        for tensor, fresh, span in zip(inside, self.fresh, spans, strict=False):
            place = self.plan.position[piece.rows[changed]] - span.start
            seen = place >= 0
            tensor[changed[seen], :, place[seen]] = fresh[index[changed[seen]]]
        return replace(piece, inside=tuple(inside))

    def _taken(self, piece: Piece) -> Piece:
        """The piece with what comes out of the recipient's attention."""
        pair = self.rows.pair[piece.rows]
        return replace(piece, inside=(self.recipient.sites["head_out"][self.layer][pair, piece.start : piece.stop],))

    # ---- within a block

    def attend(self, stock: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, _: Any, **rest: Any) -> Any:
        """Attention of packed tokens: each row sees the recipient's keys and values before its own."""
        if self.stash is not None:
            self.stash.extend((q, k, v))
            raise _Enough
        mask = self.recipient.arguments[self.layer]["attention_mask"][:1].to(q.device)
        outputs, offset = [], 0
        for piece in self.chunk:
            tokens = slice(offset, offset + piece.tokens)
            offset = tokens.stop
            if piece.feed == TAKEN:
                outputs.append(piece.inside[0].to(q.device).flatten(0, 1).unflatten(-1, (q.shape[1], -1)))
                continue
            inside = piece.inside
            if inside:
                inside = tuple(tensor.to(q.device) for tensor in inside)
            else:
                queries, keys, values = (by_row(tensor, tokens, len(piece.rows)) for tensor in (q, k, v))
                inside = (queries, *self._with_earlier(piece, keys, values))
            outputs.append(self._mixed(stock, module, piece, inside, mask, rest))
        return torch.cat(outputs).unsqueeze(0), None

    def _see(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of the one piece of a call, by way of a cache."""
        if self.stash is not None:
            self.stash.extend((keys, values))
            raise _Enough
        (piece,) = self.chunk
        keys, values = piece.inside or self._with_earlier(piece, keys, values)
        self.patches.edit_heads("k", self.layer, keys, piece.rows, 0)
        self.patches.edit_heads("v", self.layer, values, piece.rows, 0)
        return keys, values

    def _mixed(
        self, stock: Any, module: Any, piece: Piece, inside: tuple[Tensor, ...], mask: Tensor, rest: dict[str, Any]
    ) -> Float[Tensor, "token head head_dim"]:
        """What comes out of the heads of a piece, its replacements of queries, keys, values and pattern made."""
        self.patches.edit_heads("q", self.layer, inside[0], piece.rows, piece.start)
        self.patches.edit_heads("k", self.layer, inside[1], piece.rows, 0)
        self.patches.edit_heads("v", self.layer, inside[2], piece.rows, 0)
        output, _ = stock(module, *inside, mask[:, :, piece.start : piece.stop, : piece.stop], **rest)
        self.patches.reweigh(self.layer, output, inside[2], piece.rows, piece.start)
        mixed: Tensor = output.flatten(0, 1)
        return mixed

    def edit(self, name: str, layer: int, tensor: Tensor) -> Tensor | None:
        """What a component gives, with the replacements made; None where there are none."""
        names = (name, "resid_mid") if name == "attn_out" else (name,)
        asked = [each for each in names if len(self.patches.of(each, layer))]
        if not asked:
            return None
        tensor = tensor.contiguous()
        for each in asked:
            self.patches.edit(each, layer, tensor.view(-1, tensor.shape[-1]), self.base, self.flat)
        return tensor


_running: ContextVar[_Pass] = ContextVar("patchlight_pass")
