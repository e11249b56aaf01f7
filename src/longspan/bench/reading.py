"""compare's reading: every text once for all recipes that can share it, then a fork for each of them.

Recipes that leave the reading as it is share one dense read, with the union of the statistics they need; the others (positions, prefill patterns,
policies that act on every chunk) read on their own. A shared read's tokens are charged to the first branch it served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from longspan.bench import rows
from longspan.bench.contexts import shortened
from longspan.bench.costs import PeakMemory
from longspan.bench.grid import Plan
from longspan.bench.kept import kept_map, kept_share, retention
from longspan.bench.rows import Branch, Cell
from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.engine.session import Session
from longspan.errors import BadInput

PACK = 32  # forks decoded together: bounds the memory of a batch


class Reading:
    """fail(cells, reason): what becomes of cells whose recipe cannot read their text."""

    def __init__(self, model: Model, plan: Plan, fail: Callable[[list[Cell], str], None]):
        self.model, self.plan, self.fail = model, plan, fail
        self.extends = any(variant.recipe.one("positions") for variant in plan.variants)
        self._peak = PeakMemory(model.device)

    def packs(self, cells: list[Cell]) -> Iterator[list[Branch]]:
        """The branches of cells that share a context, read and compressed, at most PACK at a time. Let go of a pack before asking for the next."""
        for shared in rows.by_prompt([cell for cell in cells if not cell.variant.rereads]):
            base = None
            try:
                base = self._read_shared(shared)
            except BadInput as error:
                self.fail(shared, str(error))
            branches = self._forks(shared, base, self._peak.bytes()) if base is not None else []
            for start in range(0, len(branches), PACK):
                yield branches[start : start + PACK]
            del branches, base
        for branch in self._own_reads([cell for cell in cells if cell.variant.rereads]):
            yield [branch]
            del branch

    @property
    def _knobs(self) -> dict[str, Any]:
        return {"chunk": self.plan.chunk, "beyond_window": self.plan.beyond_window}

    def _read_shared(self, cells: list[Cell]) -> Session:
        needs = self._course_needs(cells)
        for cell in cells:
            needs = needs | cell.variant.recipe.needs
        session = self.model.session(cells[0].variant.recipe.prompt, collect=needs, **self._knobs)
        self._peak.start()
        self._shorten(session, cells)
        session.feed(cells[0].pieces.read)
        return session

    def _course_needs(self, cells: list[Cell]) -> Needs:
        """Where position methods are compared on running text, the loss of every token read is their result: it shows where each stops following."""
        wanted = self.extends and any(cell.mode == "perplexity" for cell in cells)
        return Needs(token_logprobs=wanted)

    def _shorten(self, session: Session, cells: list[Cell]) -> None:
        """Let the prompt methods of `session` shorten the text these cells share, and cut every cell's tokens from what is left."""
        if session.recipe.of("prompt"):
            item = cells[0].pieces.item
            session.shorten(item.context, item.question if cells[0].aware else "")
            for cell in cells:
                cell.pieces = shortened(self.model, cell.pieces, session.shortened[-1])

    def _forks(self, cells: list[Cell], base: Session, peak: int | None) -> list[Branch]:
        """Fork the dense session for each (item, question mode), then for each variant, and let the methods act."""
        branches: list[Branch] = []
        charged = 0
        for pieces, aware, members in rows.grouped(cells):
            stem = base.fork()
            seconds = _read_seconds(base)
            if aware:
                stem.feed(pieces.question)
                seconds += stem.meter.seconds.get("prefill", 0.0)
            for variant, mine in rows.by_variant(members):
                session = stem.fork(variant.recipe)
                try:
                    session.finish_read()
                except BadInput as error:
                    self.fail(mine, str(error))
                    continue
                tokens = 0 if charged else base.meter.prefilled_tokens
                charged += 1
                branches.append(self._branch(mine, session, seconds, tokens, peak))
        return branches

    def _own_reads(self, cells: list[Cell]) -> Iterator[Branch]:
        """Recipes that change the reading itself: one read for each."""
        for pieces, aware, members in rows.grouped(cells):
            for variant, mine in rows.by_variant(members):
                try:
                    session = self.model.session(
                        variant.recipe, collect=self._course_needs(mine), **self._knobs
                    )
                    self._peak.start()
                    self._shorten(session, mine)
                    session.feed(mine[0].pieces.read)
                    if aware:
                        session.feed(pieces.question)
                    session.finish_read()
                except BadInput as error:
                    self.fail(mine, str(error))
                    continue
                tokens = session.meter.prefilled_tokens
                yield self._branch(mine, session, _read_seconds(session), tokens, self._peak.bytes())

    def _branch(
        self, cells: list[Cell], session: Session, seconds: float, tokens: int, peak: int | None
    ) -> Branch:
        stats = session.stats
        branch = Branch(cells, session, seconds + stats.seconds.get("methods", 0.0), tokens)
        pieces = cells[0].pieces
        read = len(pieces.read)
        branch.facts = {
            "entries": stats.entries,
            "cache_bytes": stats.cache_bytes,
            "side_bytes": stats.side_bytes,
            "dense_bytes": self._dense_bytes(session.length + pieces.source_tokens - read),
            "peak_entries": stats.peak_entries,
            "context_tokens": pieces.source_tokens,
            "read_tokens": read,
            "prefill_density": stats.prefill_density,
            "dense_fallback": stats.dense_fallback,
            "by_chunk": self.plan.chunk if stats.by_chunk else None,
            "peak_memory_bytes": peak,
            "method_s": stats.seconds.get("methods", 0.0),
        }
        evidence = pieces.evidence
        variant = cells[0].variant
        drops = variant.compresses or variant.recipe.prompt.methods
        if drops and (evidence or pieces.survival == 0.0 or self.plan.maps):
            share = kept_share(session, session.length)
            branch.facts["needle_retention"] = _survived(retention(share, evidence), pieces.survival)
            if self.plan.maps and pieces.item.metadata.get("index", 0) == 0:  # the first of its task
                branch.facts["kept"] = kept_map(share[:, :read], evidence)
        return branch

    def _dense_bytes(self, tokens: int) -> int:
        """Bytes of K and V that a cache of every one of `tokens` tokens would hold in this model."""
        return self.model.geometry.dense_elements(tokens) * self.model.dtype.itemsize


def _read_seconds(session: Session) -> float:
    """Seconds until the text is read: shortening it, and the prefill."""
    return session.meter.seconds.get("shorten", 0.0) + session.meter.seconds.get("prefill", 0.0)


def _survived(kept: float | None, survival: float) -> float | None:
    """Share of the evidence that is still in the cache: of what a prompt method left, the share kept; None without evidence."""
    return 0.0 if survival == 0.0 else None if kept is None else survival * kept
