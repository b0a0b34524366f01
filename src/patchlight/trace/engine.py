"""Replay captured runs with activations replaced: exact, and nothing computed that a patch cannot change.

One pass over the layers serves many rows. A row enters at its first patched layer, with the positions from its first
patched one on; the rest of its state is the recipient's. The tokens of all rows lie end to end, without padding, and
go through the stock Hugging Face blocks; attention gets the recipient's keys and values of the earlier positions. In
the layer where a row enters, queries, keys and values are computed for what is new alone; in the last layer only the
positions that are read are queries. Families whose attention is of their own get the recipient's keys and values as a
cache, one start a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
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
from patchlight.trace.past import ARGUMENT, replacing, suffix_arguments
from patchlight.trace.patches import ABSENT, Patches, hooked_components
from patchlight.trace.pieces import KEPT, RUN, TAKEN, Piece, by_row, calls, groups
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
        self.fresh: tuple[Tensor, ...] = ()  # queries, keys and values of what is new
        self.at_fresh = torch.full_like(rows.pair, ABSENT)  # where a row's position 0 would lie in them
        self.chunk: list[Piece] = []  # what is called, and the pieces that it is the end of
        self.whole: list[Piece] = []
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
        rows, vectors = self._known_changes()
        for piece, after in self._through([*self.held.pieces(layer), *self._single_pieces()]):
            if piece.leaving:
                rows, vectors = torch.cat([rows, piece.rows]), torch.cat([vectors, after[:, 0]])
            elif last:
                self.final[piece.rows, self.read - after.shape[1] :] = after
            else:
                piece.stream.copy_(after)
        self.new = New(rows, vectors, len(self.rows.pair))

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

    def _single_pieces(self) -> list[Piece]:
        """The rows that run one position in this layer, and enter in the next one."""
        early = (self.plan.early & (self.plan.join == self.layer)).nonzero().squeeze(1)
        stream = self.recipient.sites["resid_pre"][self.layer]
        kept = KEPT if self.packed and "q" in self.recipient.sites else RUN
        return [
            Piece(rows, at, stream[self.rows.pair[rows], at : at + 1], TAKEN if feed else kept, leaving=True)
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
        for chunk in calls(pieces, together=self.packed):
            if self.stop.is_set():
                raise Stopped
            if last:
                self._project(chunk)
            called = [piece.end(self.read) for piece in chunk] if last else chunk
            self._place(called)
            self.whole, self.projections.chosen = chunk, self._chosen(chunk) if self.packed else None
            try:
                output = self._block()
            finally:
                self.projections.chosen = None
            sizes = [piece.tokens for piece in called]
            for piece, part, after in zip(chunk, called, output.split(sizes), strict=True):
                yield piece, after.view(len(part.rows), part.size, self.model.width)

    def _chosen(self, chunk: list[Piece]) -> Int[Tensor, "some"] | None:
        """The tokens of a call whose queries, keys and values are to be computed in it; None for all."""
        if self.fresh:
            return self.new.rows[:0]  # they are known
        if all(piece.feed == RUN for piece in chunk):
            return None
        whole = [torch.arange(piece.tokens) + _first(piece, self.base) for piece in chunk if piece.feed == RUN]
        changed = [self._changed(piece) for piece in chunk if piece.feed == KEPT]
        one = [self.base[rows] + self.plan.position[rows] for rows in changed]
        return torch.cat([self.new.rows[:0], *whole, *one])

    def _changed(self, piece: Piece) -> Int[Tensor, "some"]:
        """The rows of a piece that have a new vector."""
        return piece.rows[self.new.index[piece.rows] >= 0]

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
            arguments[ARGUMENT] = replacing(self._see, self.model.n_kv_heads, self.patches, self.layer, piece)
            stream = piece.stream
        output = self.model.layers[self.layer](stream, **arguments)
        after: Tensor = output[0] if isinstance(output, tuple) else output
        return after.reshape(-1, self.model.width).to(self.flat.device)

    # ---- what attention is given

    def _project(self, chunk: list[Piece]) -> None:
        """Queries (where they are seen), keys and values of what is new, for a call of less than these pieces.

        `[1, head, token, head_dim]`, or by way of a cache `[row, head, position, head_dim]`.
        """
        self.fresh, asked = (), [part for piece in chunk for part in self._asked(piece)]
        if not asked:
            return
        self._place(asked)
        self.at_fresh, self.stash = self.base.clone(), []
        with suppress(_Enough):
            self._block()
        self.fresh, self.stash = tuple(self.stash), None

    def _asked(self, piece: Piece) -> list[Piece]:
        """What has to be projected for a piece: all of it, the one position of each row that is new, or nothing."""
        if piece.feed != KEPT:
            return [piece] if piece.feed == RUN else []
        return [
            Piece(rows, at, self.new.vectors[self.new.index[rows], None])
            for at, rows in groups(self._changed(piece), self.plan.position)
        ]

    def _inside(self, whole: Piece, called: Piece) -> tuple[Tensor, ...]:
        """Queries of the positions that are called, with all keys and values up to them, for each row of a piece."""
        pair = self.rows.pair[whole.rows]
        if whole.feed == RUN:
            first = _first(whole, self.at_fresh)
            tokens = slice(first, first + whole.tokens)
            *queries, k, v = (self._by_row(tensor, tokens, whole) for tensor in self.fresh)
            return (*(q[:, :, -called.size :] for q in queries), *self._with_earlier(whole, k, v))
        spans = slice(called.start, called.stop), slice(0, whole.stop), slice(0, whole.stop)
        inside = tuple(self._recipients(name)[:, :, span] for name, span in zip("qkv", spans, strict=True))
        inside = tuple(tensor.index_select(0, pair.to(tensor.device)) for tensor in inside)
        changed = (self.new.index[whole.rows] >= 0).nonzero().squeeze(1)
        position = self.plan.position[whole.rows[changed]]
        token = self.at_fresh[whole.rows[changed]] + position
        for tensor, fresh, span in zip(inside, self.fresh, spans, strict=False):
            place = position - span.start
            seen = place >= 0
            tensor[changed[seen], :, place[seen]] = fresh[0, :, token[seen]].transpose(0, 1).to(tensor.device)
        return inside

    def _by_row(self, tensor: Tensor, tokens: slice, piece: Piece) -> Float[Tensor, "row head position head_dim"]:
        return by_row(tensor, tokens, len(piece.rows)) if self.packed else tensor

    def _with_earlier(self, piece: Piece, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a piece's rows, with the recipient's of the positions before."""
        if piece.start == 0:
            return k, v
        pair = self.rows.pair[piece.rows].to(k.device)
        both = []
        for name, own in (("k", k), ("v", v)):
            # One copy of each: what is gathered for itself and then laid together takes two to three times as long.
            whole = own.new_empty(*own.shape[:2], piece.stop, own.shape[3])
            earlier = self._recipients(name)[:, :, : piece.start].to(own.device)
            torch.index_select(earlier, 0, pair, out=whole[:, :, : piece.start])
            whole[:, :, piece.start :] = own
            both.append(whole)
        return both[0], both[1]

    def _recipients(self, name: str) -> Tensor:
        return self.recipient.sites[name][self.layer]

    # ---- within a block

    def attend(self, stock: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, _: Any, **rest: Any) -> Any:
        """Attention of packed tokens: each row sees the recipient's keys and values before its own."""
        if self.stash is not None:
            self.stash.extend((q, k, v))
            raise _Enough
        if not self.fresh:
            self.fresh, self.at_fresh = (q, k, v), self.base
        mask = self.recipient.arguments[self.layer]["attention_mask"][:1].to(q.device)
        outputs = []
        for whole, called in zip(self.whole, self.chunk, strict=True):
            if whole.feed == TAKEN:
                pair, span = self.rows.pair[whole.rows], slice(called.start, called.stop)
                taken = self._recipients("head_out")[:, span].to(q.device).index_select(0, pair.to(q.device))
                outputs.append(taken.flatten(0, 1).unflatten(-1, (q.shape[1], -1)))
                continue
            inside = tuple(tensor.to(q.device) for tensor in self._inside(whole, called))
            outputs.append(self._mixed(stock, module, called, inside, mask, rest))
        self.fresh = ()
        return torch.cat(outputs).unsqueeze(0), None

    def _see(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of the one piece of a call, by way of a cache."""
        if self.stash is not None:
            self.stash.extend((keys, values))
            raise _Enough
        (whole,) = self.whole
        keys, values = self._with_earlier(whole, *(self.fresh or (keys, values)))
        self.fresh = ()
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


def _first(piece: Piece, base: Int[Tensor, "row"]) -> int:
    """Where a piece begins among tokens, from where each row's position 0 would lie."""
    return int(base[piece.rows[0]]) + piece.start


_running: ContextVar[_Pass] = ContextVar("patchlight_pass")
