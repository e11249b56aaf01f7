"""Selection: which cached entries one decode step reads, per KV head. The currency of sparse decode attention.

Dimension letters: H heads of the selection (KV heads, or query heads), n numbers per head, T cached entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.errors import BadInput


@dataclass(frozen=True)
class Selection:
    """indices: int64 (H, n), entry numbers (page_size 1) or page numbers, each at most once; rows may differ in length: only the first
    `counts[h]` of row h are real (None: all n). entries: T; the last page may be partial. bias: float (H, n) or None, added to the logits of the
    entries chosen (an estimator's correction), of single entries only."""

    indices: Tensor
    entries: int
    page_size: int = 1
    counts: Tensor | None = None
    bias: Tensor | None = None

    def __post_init__(self):
        if self.indices.dim() != 2:
            raise BadInput(
                f"a selection holds one row of numbers per head, not a tensor of shape {tuple(self.indices.shape)}."
            )
        if self.page_size < 1:
            raise BadInput(f"page_size must be at least 1, not {self.page_size}.")
        if self.bias is not None and (self.page_size > 1 or self.bias.shape != self.indices.shape):
            raise BadInput("a selection's bias has one number for every chosen entry, and no pages.")

    @classmethod
    def from_lists(
        cls, rows: Sequence[Tensor | Sequence[int]], entries: int, page_size: int = 1
    ) -> Selection:
        """One row of numbers per head, of any lengths."""
        tensors = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
        counts = torch.tensor([len(row) for row in tensors])
        padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        return cls(padded, entries, page_size, None if bool((counts == padded.shape[1]).all()) else counts)

    @classmethod
    def full(cls, heads: int, entries: int, page_size: int = 1) -> Selection:
        pages = -(-entries // page_size)
        return cls(torch.arange(pages).expand(heads, -1).contiguous(), entries, page_size)

    @property
    def heads(self) -> int:
        return self.indices.shape[0]

    def valid(self) -> Tensor:
        """bool (H, n): real numbers of `indices`."""
        slot = torch.arange(self.indices.shape[1], device=self.indices.device)
        return (
            torch.ones_like(self.indices, dtype=torch.bool)
            if self.counts is None
            else slot < self.counts.unsqueeze(1)
        )

    def entry_numbers(self) -> tuple[Tensor, Tensor]:
        """Entry numbers (H, n * page_size) in the order of `indices`, and which of them are real (padding and the end of a partial last
        page are not)."""
        within = torch.arange(self.page_size, device=self.indices.device)
        numbers = (self.indices.unsqueeze(-1) * self.page_size + within).flatten(1)
        real = self.valid().repeat_interleave(self.page_size, 1)
        return numbers, real & (numbers < self.entries)

    def entry_counts(self) -> Tensor:
        """(H,) int64: entries read by each head."""
        slots = (
            self.indices.new_full((self.heads,), self.indices.shape[1])
            if self.counts is None
            else self.counts
        )
        missing = -self.entries % self.page_size  # what a partial last page lacks
        found = slots * self.page_size
        if missing:
            found = found - missing * ((self.indices == self.entries // self.page_size) & self.valid()).sum(1)
        return found

    def mean_entries(self) -> float:
        """Entries that a head reads, on average over the heads."""
        if self.counts is None and self.entries % self.page_size == 0:  # no look into the tensors
            return float(self.indices.shape[1] * self.page_size)
        return float(self.entry_counts().float().mean())

    def bytes_read(self, dim: int, itemsize: int, value_dim: int | None = None) -> int:
        """Bytes of K and V that a step reads, over all heads of the selection."""
        return int(self.entry_counts().sum()) * (dim + (dim if value_dim is None else value_dim)) * itemsize

    def dense(self) -> Tensor:
        """bool (H, T): entries that are read."""
        numbers, real = self.entry_numbers()
        kept = torch.zeros(self.heads, self.entries + 1, dtype=torch.bool, device=self.indices.device)
        kept.scatter_(1, torch.where(real, numbers, self.entries), True)
        return kept[:, : self.entries]

    def dense_bias(self) -> Tensor | None:
        """(H, T): the bias of every entry that is read, 0 elsewhere; None when there is none."""
        if self.bias is None:
            return None
        numbers, real = self.entry_numbers()
        spread = self.bias.new_zeros(self.heads, self.entries + 1)
        spread.scatter_(1, torch.where(real, numbers, self.entries), self.bias)
        return spread[:, : self.entries]
