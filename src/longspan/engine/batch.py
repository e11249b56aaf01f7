"""One packed forward for several sessions, each under its own recipe: the ten lines from which continuous batching follows.

A prefill chunk of one session and the decode tokens of nine others travel in the same forward. Two things let one attention call serve
many sessions: forks that still share their first segment (the context they were forked from) read it together, and sessions that decode
over equally many entries of their own do so as rows of one buffer (`joint`). Letters: S packed tokens, Hq, Hk, D, E, B sessions.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.engine.collect import collect
from longspan.engine.dispatch import LayerCall, current_span
from longspan.engine.joint import runs
from longspan.engine.terms import check_packing
from longspan.ops.attention import apply_sink, attend

if TYPE_CHECKING:
    from longspan.engine.model import Model
    from longspan.engine.segments import Tail
    from longspan.engine.state import SessionState


@dataclass
class Work:
    """Tokens `ids` (n,) to append to `session`. logits: "last", "all" or "none". reading: part of a text, not generated."""

    session: SessionState
    ids: Tensor
    logits: str = "last"
    reading: bool = False


class Batch:
    """The span of one forward: routes each slice of q, k, v to its session's layer."""

    def __init__(self, works: list[Work]):
        self.works = works
        self.slices: list[slice] = []
        self._made: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        start = 0
        for work in works:
            self.slices.append(slice(start, start + len(work.ids)))
            start += len(work.ids)

    def attend(self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for work in self.works:
            work.session.note_call(call)
        if len(self.works) == 1:
            return self._alone(0, call, q, k, v)
        out = q.new_empty(q.shape[1], q.shape[0], v.shape[-1])
        done = self._step_together(call, q, k, v, out)
        ends = self._tails_together(call, q, k, v, done)
        shared = self._shared_prefixes(call, q, done)
        for number, part in enumerate(self.slices):
            if number not in done:
                out[part] = self._alone(
                    number, call, q[:, part], k[:, part], v[:, part], shared.get(number), ends.get(number)
                )
        return out

    def _alone(
        self,
        number: int,
        call: LayerCall,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shared: tuple[Tensor, Tensor] | None = None,
        end: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        work = self.works[number]
        run = work.session.layers[call.layer]
        return run.attend(call, q, k, v, work.session, work.reading, shared, end)

    def _step_together(self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> set[int]:
        """Answer the decode steps that one call can serve, into the rows of out (S, Hq, E); returns their work numbers."""
        tails = {
            number: work.session.layers[call.layer].store.tail
            for number, work in enumerate(self.works)
            if len(work.ids) == 1 and not work.reading and work.session.steps_plainly(call.layer)
        }
        done: set[int] = set()
        for numbers in runs(tails) if len(tails) > 1 else ():
            rows, positions, queries, mixed, lse = self._over_joint(numbers, tails, call, q, k, v)
            if call.sinks is not None:
                mixed, lse = apply_sink(mixed, lse, call.sinks)
            out[rows] = mixed.squeeze(2)
            for row, number in enumerate(numbers):
                run = self.works[number].session.layers[call.layer]
                run.note_step()
                if run.needs.window_queries or run.needs.decode_mass:
                    collect(run, call, queries[row].unsqueeze(1), lse[row], positions[row : row + 1], False)
            done.update(numbers)
        return done

    def _tails_together(
        self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor, done: set[int]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """For decode steps that read more than their tail: the tails, equally long, in one call. Work number -> (out, lse) over its tail, to
        which the new entry has been appended."""
        tails = {
            number: work.session.layers[call.layer].store.tail
            for number, work in enumerate(self.works)
            if number not in done
            and len(work.ids) == 1
            and not work.reading
            and work.session.layers[call.layer].tail_stands_alone
        }
        parts: dict[int, tuple[Tensor, Tensor]] = {}
        for numbers in runs(tails) if len(tails) > 1 else ():
            _, _, _, mixed, lse = self._over_joint(numbers, tails, call, q, k, v)
            parts.update({number: (mixed[row], lse[row]) for row, number in enumerate(numbers)})
        return parts

    def _over_joint(
        self, numbers: list[int], tails: dict[int, Tail], call: LayerCall, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Append to these tails, which share a buffer, and attend to them: packed rows (B,), positions (B,), queries (B, Hq, D), out
        (B, Hq, 1, E), lse (B, Hq, 1)."""
        rows, positions = self._rows(numbers, q)
        members = [tails[number] for number in numbers]
        joint = members[0].joint
        assert joint is not None
        queries, new_k, new_v = (x.index_select(1, rows).transpose(0, 1) for x in (q, k, v))
        keys, values = joint.append(members, new_k, new_v, positions)
        mixed, lse = attend(
            queries.reshape(-1, 1, q.shape[-1]), keys, values, scale=call.scale, softcap=call.softcap
        )
        shape = (len(numbers), q.shape[0], 1)
        return rows, positions, queries, mixed.view(*shape, -1), lse.view(shape)

    def _rows(self, numbers: list[int], q: Tensor) -> tuple[Tensor, Tensor]:
        """Packed rows and positions of these works' tokens, (B,) each; made once for all layers of a forward."""
        key = tuple(numbers)
        if key not in self._made:
            starts = [self.slices[number].start for number in numbers]
            lengths = [self.works[number].session.length for number in numbers]
            self._made[key] = (
                torch.tensor(starts, device=q.device),
                torch.tensor(lengths, dtype=torch.int32, device=q.device),
            )
        return self._made[key]

    def _shared_prefixes(
        self, call: LayerCall, q: Tensor, done: set[int]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Attention over first segments that several of these sessions share, computed once per segment: work number -> (out, lse)."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number, work in enumerate(self.works):
            if number in done:
                continue
            segments = work.session.layers[call.layer].store.segments
            if segments:
                groups[id(segments[0])].append(number)
        parts: dict[int, tuple[Tensor, Tensor]] = {}
        for numbers in groups.values():
            if len(numbers) > 1:
                numbers = [number for number in numbers if self._reads_densely(number, call.layer)]
            if len(numbers) < 2:
                continue
            (block,) = self.works[numbers[0]].session.layers[call.layer].store.segments[0].blocks()
            rows = torch.cat([q[:, self.slices[number]] for number in numbers], 1)
            out, lse = attend(rows, block.k, block.v, scale=call.scale, softcap=call.softcap, bias=block.bias)
            start = 0
            for number in numbers:
                stop = start + len(self.works[number].ids)
                parts[number] = (out[:, start:stop], lse[:, start:stop])
                start = stop
        return parts

    def _reads_densely(self, number: int, layer: int) -> bool:
        work = self.works[number]
        run = work.session.layers[layer]
        return run.store.segments[0].uniform and work.session.reads_densely(run, work.reading)


@torch.no_grad()
def forward(model: Model, works: list[Work]) -> list[Tensor | None]:
    """Run one packed forward and append every session's tokens. Returns logits per work: (vocab,) fp32 for "last", (n, vocab) for "all"."""
    works = [work for work in works if len(work.ids)]
    if len(works) > 1:
        check_packing(works)
    if model.geometry.recurrent and len(works) > 1:  # a recurrent state belongs to one sequence
        return [logits for work in works for logits in forward(model, [work])]
    device = model.device
    for work in works:
        work.session.arriving = work.ids
    ids = torch.cat([work.ids.to(device) for work in works])
    positions = torch.cat([work.session.model_positions(len(work.ids)) for work in works]).to(device)
    span = Batch(works)
    wanted = _wanted_rows(span)
    hidden = any(work.session.needs.hidden for work in works)
    logprobs = [work for work in works if work.session.needs.token_logprobs]
    rows = torch.arange(len(ids)) if logprobs else wanted
    extra = (
        {"past_key_values": works[0].session.recurrent, "use_cache": True}
        if model.geometry.recurrent
        else {"use_cache": False}
    )
    reset = current_span.set(span)
    try:
        out = model.hf(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            span=span,
            logits_to_keep=rows.to(device),
            output_hidden_states=hidden,
            **extra,
        )
    finally:
        current_span.reset(reset)
    logits = out.logits[0]
    lookup = {int(row): number for number, row in enumerate(rows)}
    results: list[Tensor | None] = []
    for work, part in zip(works, span.slices, strict=True):
        if hidden and work.session.needs.hidden:
            work.session.collect_hidden([state[0, part] for state in out.hidden_states])
        if work.session.needs.token_logprobs:
            work.session.collect_logprobs(work.ids, logits[part.start : part.stop].float())
        if work.logits == "none":
            results.append(None)
        elif work.logits == "all":
            results.append(logits[[lookup[row] for row in range(part.start, part.stop)]].float())
        else:
            results.append(logits[lookup[part.stop - 1]].float())
        work.session.appended(work.ids, work.reading)
    return results


def _wanted_rows(span: Batch) -> Tensor:
    rows: list[int] = []
    for work, part in zip(span.works, span.slices, strict=True):
        if work.logits == "all":
            rows += range(part.start, part.stop)
        elif work.logits == "last":
            rows.append(part.stop - 1)
    return torch.tensor(rows or [span.slices[-1].stop - 1])
