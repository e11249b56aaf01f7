"""Past the trained window: loss by position of prose and recall by depth of one record, for any recipe on a model of `train.tiny_tasks`' vocabulary.

Loss: held-out documentation prose, nats a token in equal bins of positions. Recall: one record among three distractors in prose, asked at the end; the share
answered (chance is 1 in 100) and the nats of the gold answer, which go on telling methods apart where the share is 1. All recipes of a
run see the same samples. Texts longer than a recipe reaches are read all the same: what that costs is the point.
"""

from dataclasses import dataclass

import numpy as np
import torch

from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.engine.state import CHUNK
from longspan.train.tiny_tasks import needle, sample

DEPTHS = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 16


@dataclass(frozen=True)
class Recall:
    """accuracy: share answered. gold_nats: mean nats of the gold answer."""

    accuracy: float
    gold_nats: float


@dataclass(frozen=True)
class Reach:
    """One recipe at one length: nll (nats a token, one a bin of positions) and recall by depth."""

    length: int
    nll: tuple[float, ...]
    recall: dict[float, Recall]

    def beyond(self, window: int) -> float:
        """Nats a token of the bins that begin at or after `window` tokens."""
        width = self.length / len(self.nll)
        return float(np.mean([value for number, value in enumerate(self.nll) if number * width >= window]))

    @property
    def accuracy(self) -> float:
        return float(np.mean([one.accuracy for one in self.recall.values()]))

    @property
    def gold_nats(self) -> float:
        return float(np.mean([one.gold_nats for one in self.recall.values()]))


def prose_nll(
    model: Model,
    recipe: str | None,
    length: int,
    samples: int,
    bins: int = BINS,
    chunk: int = CHUNK,
    draw: int = 0,
) -> tuple[float, ...]:
    """Nats a token in `bins` equal bins of positions, mean over `samples` stretches of held-out prose. chunk: tokens read at a time. draw: as in `needle_recall`."""
    rows = []
    rng = np.random.default_rng([length, draw] if draw else length)
    for _ in range(samples):
        ids = torch.from_numpy(sample("text", length, rng, held_out=True).ids)
        collect = Needs(token_logprobs=True)
        session = model.session(recipe, collect=collect, chunk=chunk, beyond_window=True).read(ids)
        rows.append(-session.token_logprobs()[1:].cpu().numpy())
    return tuple(float(part.mean()) for part in np.array_split(np.stack(rows), bins, axis=1))


def needle_recall(
    model: Model,
    recipe: str | None,
    length: int,
    samples: int,
    depths: tuple[float, ...] = DEPTHS,
    draw: int = 0,
) -> dict[float, Recall]:
    """Recall at each depth over `samples` prompts of draw number `draw`: another draw is held out from the test's, 0."""
    found = {}
    for depth in depths:
        right, nats = [], []
        rng = np.random.default_rng([length, int(100 * depth), *([draw] if draw else [])])
        for _ in range(samples):
            drawn = needle(length, depth, rng)
            session = model.session(recipe, beyond_window=True).read(torch.from_numpy(drawn.ids[:-1]))
            logits, gold = session.next_logits(), int(drawn.ids[-1])
            right.append(int(logits.argmax()) == gold)
            nats.append(-float(logits.float().log_softmax(-1)[gold]))
        found[depth] = Recall(float(np.mean(right)), float(np.mean(nats)))
    return found


def reach(model: Model, recipe: str | None, length: int, *, prose: int = 4, prompts: int = 4) -> Reach:
    """Loss by position over `prose` stretches and recall over `prompts` prompts a depth, at `length` tokens."""
    return Reach(
        length, prose_nll(model, recipe, length, prose), needle_recall(model, recipe, length, prompts)
    )
