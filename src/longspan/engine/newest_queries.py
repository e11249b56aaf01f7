"""The newest queries of a layer, which methods score entries with. Letters: Hq query heads, S new tokens, W window, D head dim."""

import torch
from torch import Tensor

PIECES = 64  # so many pieces are put together before more are added


class NewestQueries:
    """The last W queries. A decode step adds a row; the rows become one tensor when somebody looks."""

    def __init__(self, tensor: Tensor | None = None):
        self._pieces = [] if tensor is None else [tensor]
        self._most = 0 if tensor is None else tensor.shape[1]

    def add(self, q: Tensor, most: int) -> None:
        """Append q (Hq, S, D) and keep the last `most`."""
        kept, self._most = q[:, -most:].clone(), most
        if kept.shape[1] >= most:
            self._pieces = [kept]
        else:
            self._pieces.append(kept)
            if len(self._pieces) > PIECES:
                self._join()

    @property
    def tensor(self) -> Tensor | None:
        """(Hq, at most W, D), or None before the first; the same object until more are added."""
        if len(self._pieces) > 1:
            self._join()
        return self._pieces[0] if self._pieces else None

    def _join(self) -> None:
        self._pieces = [torch.cat(self._pieces, 1)[:, -self._most :].clone()]
