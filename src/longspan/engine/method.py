"""The stage contracts: what a published method implements, and nothing else.

A method is a frozen dataclass of knobs. Its run state lives in the session (`view.state`, one dictionary a layer; values are replaced,
never written in place, so that forks can share them). Stages: cache (score and keep), prefill (tiles), decode (select), positions,
draft, prompt, adapt. Dimension letters: Hq query heads, Hk KV heads, S rows, T entries, D head dim.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from longspan.engine.allocate import allocate, best
from longspan.engine.budget import Budget, split_exactly
from longspan.engine.needs import Needs
from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.geometry import LayerGeometry
    from longspan.engine.prompt import Compressed, Scorer
    from longspan.engine.rope import LayerRope
    from longspan.engine.segments import SideSpec
    from longspan.engine.view import LayerView
    from longspan.ops.distance_maps import Passes
    from longspan.ops.frequency_maps import Frequencies
    from longspan.ops.selection import Selection
    from longspan.ops.tiles import TileMask


READS = {
    "any": "however a text is cut, the result is the same",
    "by_chunk": "every chunk is a piece of work of its own: its size is a knob of the method",
    "whole": "a text must come in one chunk",
}


@dataclass(frozen=True)
class Source:
    """Where a method comes from."""

    paper: str
    year: int
    code: str = ""


@dataclass(frozen=True)
class Method:
    """Knobs of a method. Subclasses are frozen dataclasses registered with `@register("name")`."""

    name: ClassVar[str] = ""
    stage: ClassVar[str] = ""
    source: ClassVar[Source]
    aware: ClassVar[bool] = (
        False  # its choice depends on the question when the question is read with the context
    )
    # What follows holds for the knobs given, is refused otherwise (`engine.terms`), and may be a property of the knobs.
    reads: ClassVar[str] = "any"  # one of READS: what chunks are to the method while a text is read
    chunk_step: ClassVar[int] = 1  # tokens: the chunks of a longer text must be a multiple of it
    batch_safe: ClassVar[bool] = True  # a pack of sessions equals each of them alone
    turn_safe: ClassVar[bool] = True  # a session may read again after it has answered
    pre_rope: ClassVar[bool] = False  # works on keys or queries before rotation
    system: ClassVar[str] = ""  # slug in the table of systems, when it is one

    @property
    def chunk_safe(self) -> bool:
        """Whether reading in chunks (multiples of `chunk_step`) gives what one read of the whole text gives."""
        return self.reads == "any"

    @property
    def needs(self) -> Needs:
        return Needs()

    def side_specs(self, model: Any) -> dict[str, SideSpec]:
        """Per-entry side values that the store has to carry, by name."""
        return {}

    def check(self, model: Any) -> None:
        """Raise BadInput when the model cannot be served (geometry, missing artefact)."""

    def free_tokens(self, session: Any) -> int | None:
        """How many more tokens may be appended in one go before this method must act; None: any number."""
        return None

    def after_tokens(self, session: Any, new: int, reading: bool) -> None:
        """Called after every forward of the session with the number of tokens it appended."""

    def after_read(self, session: Any) -> None:
        """Called when a text has been read to its end."""

    def spell(self) -> str:
        """The recipe string of this method: its name and the knobs that differ from their defaults."""
        shown = []
        for knob in dataclasses.fields(self):
            value = getattr(self, knob.name)
            if knob.name != "budget" and knob.default is not dataclasses.MISSING and value == knob.default:
                continue
            if knob.default_factory is not dataclasses.MISSING and value == knob.default_factory():
                continue
            shown.append(f"{knob.name}={value.spell() if isinstance(value, Method) else _literal(value)}")
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def _literal(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() else repr(value)


@dataclass(frozen=True)
class PromptMethod(Method):
    """Shortens a text before the model reads a token of it. `aware`: it needs the question, which comes with the text.

    budget: share (0-1] of the text's tokens, tokens (int > 1), or bytes of K and V ("64MB") that the short text may take.
    """

    stage: ClassVar[str] = "prompt"

    budget: float | int | str = 0.5

    def __post_init__(self) -> None:
        Budget.parse(self.budget)

    def compress(self, text: str, question: str, budget_tokens: int, scorer: Scorer) -> Compressed:
        """At most `budget_tokens` tokens of `text`, with the manifest of what was kept. BadInput for an empty text."""
        raise NotImplementedError


@dataclass(frozen=True)
class CachePolicy(Method):
    """Decides which entries stay: schedule x scorer x allocator x action.

    budget: share (0-1] of the tokens seen, entries a head (int > 1), or bytes ("64MB"); the total over layers and heads is exact.
    when: "prefill" (once, after a text has been read), "chunk" (after every chunk as well: bounded peak), "steps" (after a text, and
    every `every` generated tokens). sink, recent: entries at the start and at the end that are always kept. allocator: "uniform"
    (every head the same), "adaptive" (heads of a layer compete for the same total, each with at least `floor` of its even share) or
    "overall" (all heads of all layers compete for one total; scores must be comparable between layers).
    """

    stage: ClassVar[str] = "cache"
    action: ClassVar[str] = "drop"  # drop | merge | thin | quantise, in the order they must come

    budget: float | int | str = 0.5
    when: str = "prefill"
    every: int = 64
    sink: int = 0
    recent: int = 0
    allocator: str = "uniform"
    floor: float = 0.2

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        for knob, allowed in (
            ("when", ("prefill", "chunk", "steps")),
            ("allocator", ("uniform", "adaptive", "overall")),
        ):
            if getattr(self, knob) not in allowed:
                raise BadInput(
                    f"{knob}={getattr(self, knob)!r} of {self.name} is not one of {', '.join(allowed)}."
                )
        if not 0.0 <= self.floor <= 1.0:
            raise BadInput(f"floor={self.floor} of {self.name} must lie between 0 and 1.")
        if self.every < 1 or self.sink < 0 or self.recent < 0:
            raise BadInput(
                f"every, sink and recent of {self.name} count tokens: every >= 1, sink and recent >= 0."
            )

    @property
    def reads(self) -> str:  # type: ignore[override]
        return "by_chunk" if self.when == "chunk" else "any"

    @property
    def pre_rope(self) -> bool:  # type: ignore[override]
        """A policy that renumbers positions rotates itself; one with a base does what the base does."""
        inside = (getattr(self, knob.name) for knob in dataclasses.fields(self))
        renumbers = getattr(self, "position_mode", "original") != "original"
        return renumbers or any(isinstance(one, Method) and one.pre_rope for one in inside)

    # -- what a method writes -------------------------------------------------------------------------------------
    def score(self, view: LayerView) -> Tensor:
        """Importance of every entry, (Hk, T), larger = keep. Any finite values; infinities force. Default: what `score_all` found."""
        return view.state["scores"]

    def score_all(self, session: Any) -> dict[int, Tensor]:
        """The scores of every growing layer at once, for a scorer that has to look at the whole session (a pass on a fork, say)."""
        return {}

    def layer_shares(self, session: Any) -> list[float] | None:
        """Relative budget of each growing layer (any positive scale), or None for even shares."""
        return None

    def compress(self, view: LayerView, budget: int) -> None:
        """Bring one layer down to `budget` entries over all its heads. Default: score, protect, allocate, keep."""
        scores = self.protected(view, self.score(view))
        view.keep(allocate(scores, view.valid, budget, self.allocator, self.floor))

    # -- machinery ------------------------------------------------------------------------------------------------
    def protected(self, view: LayerView, scores: Tensor) -> Tensor:
        """`scores` with the sink and recent entries forced in."""
        if not (self.sink or self.recent):
            return scores
        positions = view.positions
        forced = positions < self.sink
        if self.recent:
            forced = forced | (positions >= view.seen - self.recent)
        return scores.float().masked_fill(forced, float("inf"))

    def compress_all(self, session: Any) -> None:
        """Compress every growing layer to its share of the budget; nothing happens when the cache is within it."""
        layers = session.growing_layers()
        heads = session.model.geometry.kv_heads
        per_head = self.per_head(session)
        if per_head < min(self.sink + self.recent, session.length):
            raise BadInput(
                f"The budget of {self.name} is {per_head} entries a head, below the {self.sink + self.recent} it must protect "
                "(sink + recent); raise the budget or lower them."
            )
        budget = per_head * heads * len(layers)
        if session.growing_entries() <= budget:
            return
        found = self.score_all(session)
        for layer, scores in found.items():
            session.view(layer, self).state["scores"] = scores
        if self.allocator == "overall":
            self._compress_together([session.view(layer, self) for layer in layers], budget)
        else:
            held = [session.layers[layer].store.entries for layer in layers]
            totals = split_exactly(budget, self.layer_shares(session), len(layers), held)
            for layer, total in zip(layers, totals, strict=True):
                view = session.view(layer, self)
                if total < view.entries:
                    self.compress(view, total)
        for layer in found:
            session.view(layer, self).state.pop("scores")
        session.note_eviction()

    def _compress_together(self, views: list[LayerView], budget: int) -> None:
        """Keep the best `budget` entries over all heads of all layers; ties go to the earlier layer, head and position."""
        scores = [self.protected(view, self.score(view)).float() for view in views]
        rows = [
            s if view.valid is None else s.masked_fill(~view.valid, float("-inf"))
            for view, s in zip(views, scores, strict=True)
        ]
        (kept,) = best(torch.cat([row.flatten() for row in rows]).unsqueeze(0), [budget])
        for view, row, chosen in zip(views, rows, kept.split([row.numel() for row in rows]), strict=True):
            view.keep(chosen.view_as(row))

    def per_head(self, session: Any) -> int:
        """The budget in entries a KV head, on average, at the session's length."""
        return Budget.parse(self.budget).entries(session.length, session.model.geometry, session.element_size)

    def fewest(self, session: Any) -> int:
        """Entries a head below which the policy cannot work."""
        return self.sink + self.recent

    def after_read(self, session: Any) -> None:
        self.compress_all(session)

    def after_tokens(self, session: Any, new: int, reading: bool) -> None:
        if reading:
            # a share of little text may be less than the policy needs
            if self.when == "chunk" and self.per_head(session) >= self.fewest(session):
                self.compress_all(session)
        elif self.when == "steps":
            state = session.run_state(self)
            state["since"] = state.get("since", 0) + new
            if state["since"] >= self.every:
                state["since"] = 0
                self.compress_all(session)

    def free_tokens(self, session: Any) -> int | None:
        if self.when != "steps":
            return None
        return self.every - session.run_state(self).get("since", 0)


@dataclass(frozen=True)
class PrefillPattern(Method):
    """Decides which key tiles each query tile reads while a text is read."""

    stage: ClassVar[str] = "prefill"

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        """Tiles for queries q (Hq, S, D), the newest S of the keys k (Hk, T, D). None: dense for this layer and chunk."""
        raise NotImplementedError


@dataclass(frozen=True)
class DecodeSelector(Method):
    """Decides which entries each generated token reads; nothing is freed.

    refresh: index again when this many entries have come since (they are read densely until then). dense_layers: the first layers
    that always read everything.
    """

    stage: ClassVar[str] = "decode"

    refresh: int = 64
    dense_layers: int = 0

    def index(self, view: LayerView) -> None:
        """Digest the layer's entries into `view.state`; from then on the first `view.run.indexed` of them are selected from."""

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        """What one token reads of the indexed entries, for q (Hq, 1, D) as attention sees it; later entries are always read. None: all."""
        raise NotImplementedError

    def free_tokens(self, session: Any) -> int | None:
        return 1  # a selection belongs to one query


@dataclass(frozen=True)
class PositionMethod(Method):
    """Changes what positions mean. Keys are kept un-rotated when `rotate_on_read`, so that the map may change while the cache grows."""

    stage: ClassVar[str] = "positions"
    pre_rope: ClassVar[bool] = True
    rotate_on_read: ClassVar[bool] = False

    def frequencies(self, rope: LayerRope, length: int) -> Frequencies:
        """Inverse frequencies (D/2,) and the factor on cos and sin at the current `length`, from how the model itself rotates."""
        return rope.frequencies

    def passes(self, rope: LayerRope) -> Passes | None:
        """Distance maps as passes that are merged by log-sum-exp (`ops.distance_maps`), or None for plain attention."""
        return None

    def layer_passes(self, layer: LayerGeometry) -> Passes | None:
        """`passes` of one layer, for methods that treat layers or heads differently."""
        return self.passes(layer.rope)

    def bias(self, query_positions: Tensor, key_positions: Tensor, heads: int) -> Tensor | None:
        """Score bias (Hq, S, T) or None."""
        return None

    def check_trained(self, trained_window: int) -> None:
        """Raise BadInput when the knobs do not fit a model trained at `trained_window` tokens; asked unless texts beyond the window were asked for."""

    def reach(self, trained_window: int) -> float:
        """The longest text, in tokens, that the method is meant for on a model trained at `trained_window`."""
        return float("inf")
