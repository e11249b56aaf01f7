"""How much the end of a text attends to each of its tokens: one weight a row and token, the largest (or the sum) over heads and layers.

The rows are those of the last tokens and of tokens guessed after them. Only these rows are ever computed, a few at a time, from the queries that
the session keeps while it reads. Letters: R rows, N tokens, Hq query heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.engine.drafts import greedy_guess
from longspan.engine.method import Method
from longspan.engine.needs import Needs
from longspan.engine.view import LayerView

if TYPE_CHECKING:
    from longspan.engine.model import Model

ROWS = 16  # rows whose weights over all heads are held at once


class _Reader(Method):
    """Stands for the method in views that only read statistics."""

    name = "tail_attention"


def tail_attention(
    model: Model, ids: list[int], rows: int, *, guessed: int = 0, first_layer: int = 0, how: str = "max"
) -> Tensor:
    """Weights (R, N) fp32 of the last `rows` tokens of `ids`, and of `guessed` greedily written ones, over the tokens of `ids`.

    first_layer: layers before it (counting those that grow) do not count; the last layer always does. how: "max" or "sum" over heads
    and layers. BadInput when the text does not fit the model.
    """
    rows = min(rows, len(ids))
    session = model.session(collect=Needs(window_queries=rows + guessed)).feed(torch.tensor(ids))
    greedy_guess(session, guessed)
    count = rows + session.length - len(ids)
    layers = session.growing_layers()
    found = torch.zeros(count, len(ids), device=model.device)
    for layer in layers[min(first_layer, len(layers) - 1) :]:
        view = LayerView(session, session.layers[layer], _Reader())
        queries, positions = view.window_queries(count), view.window_positions(count)
        for start in range(0, count, ROWS):
            part = slice(start, start + ROWS)
            weights = view.attention_rows(queries[:, part], positions[part])[..., : len(ids)]
            found[part] = (
                torch.maximum(found[part], weights.amax(0)) if how == "max" else found[part] + weights.sum(0)
            )
    return found
