"""What a session is made of: its layers, counters and collected statistics, and what methods and the packed forward ask of it.

`Session` adds the verbs (read, ask, score, fork, rollback). Everything that grows or is chosen by a method lives here; the model object is
shared and stateless.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from longspan.engine.dispatch import LayerCall
from longspan.engine.layer import LayerRun
from longspan.engine.method import Method
from longspan.engine.needs import Needs
from longspan.engine.positions import position_map
from longspan.engine.recipe import Recipe, parse
from longspan.engine.stats import Meter
from longspan.engine.terms import check_model
from longspan.engine.view import LayerView
from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.model import Model
    from longspan.engine.prompt import Compressed

CHUNK = 512


class SessionState:
    """The state behind a `Session`. Not for use from two threads at once."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe | Method | str | None = None,
        *,
        collect: Needs | None = None,
        chunk: int = CHUNK,
        beyond_window: bool = False,
    ):
        self.model = model
        self.recipe = parse(recipe)
        self.chunk, self.beyond_window = chunk, beyond_window
        check_model(self.recipe, model)
        self.needs = self.recipe.needs | (collect or Needs())
        self.map = position_map(self.recipe, model.geometry.layers)
        self.length = 0
        self.text_start = 0  # where the text under way began
        self.texts_read = 0  # texts that were read to their end
        self.ids: list[int] = []
        self.arriving = torch.zeros(0, dtype=torch.long)  # tokens of the forward under way, not in `ids` yet
        self.logits: Tensor | None = None
        self.expected = 0  # tokens still to come in the read under way: lets stores allocate once
        self.horizon = (
            0  # length the text under way will have at its end: position methods choose their factor by it
        )
        self.turn_open = False
        self.silent_heads: dict[
            int, tuple[int, ...]
        ] = {}  # query heads whose outputs count as zero, by layer
        self.image_spans: tuple[tuple[int, int], ...] | None = (
            None  # positions that are not text; None: never said
        )
        self.shortened: tuple[
            Compressed, ...
        ] = ()  # of each text that prompt methods shortened, in the order read
        self.meter = Meter()
        self.recurrent = model.new_recurrent()
        self._run: dict[str, dict[str, Any]] = {}
        self._marks: dict[int, Tensor] = {}
        self._floor = 0
        self._hidden: dict[int, Tensor] = {}
        self._logprobs: list[Tensor] = []
        self._last_logits: Tensor | None = None
        self._positions: tuple[int, Tensor] | None = None
        side = self._side_specs()
        self.layers = {
            index: LayerRun(
                layer, self._layer_needs(layer.window is None), side if layer.window is None else {}, self.map
            )
            for index, layer in model.geometry.layers.items()
        }

    def _side_specs(self) -> dict[str, Any]:
        return {
            name: spec
            for method in self.recipe.methods
            for name, spec in method.side_specs(self.model).items()
        }

    def _layer_needs(self, grows: bool) -> Needs:
        return self.needs if grows else Needs()

    # -- what methods and the dispatcher ask -----------------------------------------------------------------------
    @property
    def pattern(self) -> Any | None:
        return self.recipe.one("prefill")

    @property
    def selector(self) -> Any | None:
        return self.recipe.one("decode")

    @property
    def element_size(self) -> int:
        return self.model.dtype.itemsize

    def growing_layers(self) -> tuple[int, ...]:
        return self.model.geometry.growing

    def dense_is_faster(self, phase: str, backend: str, keys: int, density: float) -> bool:
        """Whether a sparse call should be answered densely, by what was measured on this machine; never without a measurement."""
        table = self.model.crossovers
        return table is not None and table.dense_is_faster(phase, backend, keys, density)

    def longest(self) -> int:
        """Entries of the longest head of any growing layer."""
        return max((self.layers[i].store.longest for i in self.growing_layers()), default=0)

    def entries(self) -> int:
        """Entries over all layers and KV heads, sliding layers included."""
        return sum(run.store.entries for run in self.layers.values())

    def growing_entries(self) -> int:
        return sum(self.layers[i].store.entries for i in self.growing_layers())

    def view(self, layer: int, method: Method) -> LayerView:
        return LayerView(self, self.layers[layer], method)

    def run_state(self, method: Method) -> dict[str, Any]:
        """The method's state for the whole session (per-layer state is in `view.state`)."""
        return self._run.setdefault(method.name, {})

    def note_call(self, call: LayerCall) -> None:
        self.model.calls.setdefault(call.layer, (call.scale, call.softcap))

    def scale(self, layer: int) -> float:
        return self.model.calls[layer][0]

    def softcap(self, layer: int) -> float | None:
        return self.model.calls[layer][1]

    def note_eviction(self) -> None:
        """Entries were dropped or merged: what came before this point cannot be rolled back to."""
        self._floor = self.length

    def reads_densely(self, run: LayerRun, reading: bool) -> bool:
        """Whether this layer attends to its whole first segment with plain keys, so that forks can share the work."""
        if not run.grows or run.rotates_on_read:
            return False
        return self.pattern is None if reading else not (self.selector is not None and run.indexed)

    def steps_plainly(self, layer: int) -> bool:
        """Whether a decode step in this layer is dense attention over the session's own entries and nothing else."""
        run = self.layers[layer]
        return (
            run.plain_tail
            and layer not in self.silent_heads
            and not (self.selector is not None and run.indexed)
        )

    def free_tokens(self) -> int | None:
        """How many tokens may be appended at once before some method must act; None: any number."""
        limits = [limit for method in self.recipe.methods if (limit := method.free_tokens(self)) is not None]
        return min(limits) if limits else None

    @property
    def holds_all_it_reads(self) -> bool:
        """Whether the whole text will be in the cache at once, so that room for it is worth reserving."""
        return all(getattr(method, "when", "") != "chunk" for method in self.recipe.of("cache"))

    def next_positions(self, count: int, device: torch.device) -> Tensor:
        """Positions of the next `count` tokens, (count,) int32; made once for all layers of a forward."""
        if self._positions is None or self._positions[0] != self.length or len(self._positions[1]) != count:
            self._positions = (
                self.length,
                torch.arange(self.length, self.length + count, dtype=torch.int32, device=device),
            )
        return self._positions[1]

    def model_positions(self, count: int) -> Tensor:
        """Position ids for the model's own rotary embedding: the true ones, or zeros when the engine rotates."""
        if self.map is not None:
            return torch.zeros(count, dtype=torch.long)
        return torch.arange(self.length, self.length + count)

    def silence(self, heads: Iterable[tuple[int, int]]) -> Self:
        """From now on the outputs of these query heads, (layer, head), are zero: an ablation. Forks inherit it; () ends it."""
        silent: dict[int, list[int]] = {}
        for layer, head in heads:
            if layer not in self.layers or not 0 <= head < self.layers[layer].geometry.q_heads:
                raise BadInput(f"This model has no attention head {head} in layer {layer}.")
            silent.setdefault(layer, []).append(head)
        self.silent_heads = {layer: tuple(sorted(set(found))) for layer, found in silent.items()}
        return self

    def mark_images(self, spans: Iterable[tuple[int, int]]) -> Self:
        """Say which positions, as (first, end), hold images or other text that may be compressed where real text may not."""
        spans = tuple((int(first), int(end)) for first, end in spans)
        for first, end in spans:
            if not 0 <= first < end:
                raise BadInput(f"An image span is (first, end) with 0 <= first < end, not ({first}, {end}).")
        self.image_spans = spans
        return self

    # -- what the forward reports ----------------------------------------------------------------------------------
    def appended(self, ids: Tensor, reading: bool) -> None:
        count = len(ids)
        self.length += count
        if not reading:
            self.text_start = self.length
        self.ids += ids.tolist()
        self.expected = max(0, self.expected - count)
        self.meter.peak_entries = max(self.meter.peak_entries, self.entries())
        if self.needs.decode_mass and not reading:
            self.note_eviction()
        for method in self.recipe.methods:
            method.after_tokens(self, count, reading)
        selector = self.selector
        if selector is not None and not reading:
            for layer in self.growing_layers():
                run = self.layers[layer]
                if run.indexed and run.store.longest - run.indexed >= selector.refresh:
                    self._index(layer)

    def _index(self, layer: int) -> None:
        selector = self.selector
        assert selector is not None
        run = self.layers[layer]
        if self.growing_layers().index(layer) < selector.dense_layers or not run.store.longest:
            return
        selector.index(self.view(layer, selector))
        run.indexed = min(run.store.lengths)

    def collect_hidden(self, states: list[Tensor]) -> None:
        for layer in self.growing_layers():
            old, new = self._hidden.get(layer), states[layer]
            kept = new if old is None else torch.cat((old, new))
            self._hidden[layer] = kept if self.needs.hidden < 0 else kept[-self.needs.hidden :].clone()

    def collect_logprobs(self, ids: Tensor, logits: Tensor) -> None:
        before = (
            logits[:-1]
            if self._last_logits is None
            else torch.cat((self._last_logits.unsqueeze(0), logits[:-1]))
        )
        targets = (ids[1:] if self._last_logits is None else ids).to(logits.device)
        found = before.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
        if self._last_logits is None:
            found = torch.cat((found.new_zeros(1), found))
        self._logprobs.append(found)
        self._last_logits = logits[-1].clone()

    def hidden(self, layer: int) -> Tensor:
        return self._hidden[layer]

    def token_logprobs(self) -> Tensor:
        return torch.cat(self._logprobs)
