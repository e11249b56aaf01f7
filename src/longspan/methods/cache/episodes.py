"""Episodes of a conversation (EpiCache, Kim et al., 2025): cluster its windows by topic, keep one cache a topic, ask the nearest one.

1. Windows of `window` utterances, long utterances cut into sentences first. 2. Their sentence embeddings, of unit length, are clustered by
k-means (the best of `restarts`). 3. The windows nearest to a centroid (medoids) are the episode's text, with which `epicache` scores while
the whole conversation is read, once an episode. 4. A question goes to the cache whose centroid is nearest by cosine (the code compares with
centroids that are not of unit length, so that loose clusters win ties).

The encoder is handed in, as a function from texts to rows: `methods` knows no embedding models. Without one, a text is the mean of the model's own
token embeddings, which the code offers too. The code clusters a finished conversation; here more of it can be read afterwards. Reading costs
one prefill an episode, and the caches together hold E times the budget.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from longspan.engine.generate import Generation
from longspan.engine.session import Session
from longspan.errors import BadInput
from longspan.methods.cache.epicache import EpiCache
from longspan.ops.clusters import kmeans

Encoder = Callable[[Sequence[str]], np.ndarray]  # texts -> (n, d)
Utterance = tuple[str, str]  # speaker, text
LONG = 500  # characters above which an utterance is cut into sentences
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Clusters:
    """labels: episode of every window. centroids (E, d) of unit length. medoids: windows of every episode, the nearest to its centroid first."""

    labels: tuple[int, ...]
    centroids: np.ndarray
    medoids: tuple[tuple[int, ...], ...]

    def nearest(self, row: np.ndarray) -> int:
        """The episode whose centroid has the largest cosine with `row` (d,)."""
        return int(np.argmax(self.centroids @ row))


class Episodes:
    """One conversation, read under `method` once an episode; every question is answered from the cache of its own episode."""

    def __init__(
        self,
        model: Any,
        utterances: Sequence[Utterance],
        method: EpiCache,
        *,
        encoder: Encoder | None = None,
        episodes: int = 4,
        medoids: int = 4,
        window: int = 4,
        block: int = 512,
        restarts: int = 10,
        seed: int = 42,
    ):
        """block: tokens read between two cuts. medoids: windows that stand for an episode. BadInput for an empty conversation."""
        if not utterances:
            raise BadInput("There is no conversation to read: it has no utterances.")
        if min(episodes, medoids, window, block, restarts) < 1:
            raise BadInput("episodes, medoids, window, block and restarts must be at least 1.")
        self._encode, self._window = encoder or token_means(model), window
        self.windows = windows(utterances, window)
        self.clusters = cluster(self.embed(self.windows), episodes, restarts, seed)
        text = "\n".join(said(one) for one in utterances)
        self.sessions: list[Session] = []
        for chosen in self.clusters.medoids:
            typical = "\n".join(self.windows[i] for i in chosen[:medoids])
            self.sessions.append(
                model.session(replace(method, episode=f"\n{typical}"), chunk=block).read(text)
            )

    def read(self, utterances: Sequence[Utterance]) -> "Episodes":
        """More of the conversation, into every cache; each of its windows joins the nearest episode, and the episodes' text stays as it was."""
        fresh = windows(utterances, self._window)
        joined = tuple(self.clusters.nearest(row) for row in self.embed(fresh)) if fresh else ()
        self.windows = [*self.windows, *fresh]
        self.clusters = replace(self.clusters, labels=self.clusters.labels + joined)
        for session in self.sessions if fresh else ():
            session.read("\n" + "\n".join(said(one) for one in utterances))
        return self

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.asarray(self._encode(texts), dtype=np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def episode_of(self, question: str) -> int:
        return self.clusters.nearest(self.embed([question])[0])

    def session_for(self, question: str) -> Session:
        """The session that should answer; fork it, or `ask`, to leave it as it is."""
        return self.sessions[self.episode_of(question)]

    def ask(self, question: str, **options: Any) -> Generation:
        """Answer from the nearest episode; no answer changes another. Options as for `Session.ask`."""
        return self.session_for(question).ask(question, **options)

    @property
    def peak_entries(self) -> int:
        """Most entries, over all layers and heads, that any one cache held at any time, the scoring prompt included."""
        return max(session.stats.peak_entries for session in self.sessions)


def said(utterance: Utterance) -> str:
    speaker, text = utterance
    return f'{speaker} said, "{text.strip()}"'


def windows(utterances: Sequence[Utterance], size: int) -> list[str]:
    """Texts of `size` utterances each (the last may be shorter), after cutting those of more than LONG characters into sentences."""
    pieces = [
        (speaker, piece)
        for speaker, text in utterances
        for piece in (_SENTENCE.split(text.strip()) if len(text) > LONG else [text])
    ]
    return ["\n".join(said(p) for p in pieces[i : i + size]) for i in range(0, len(pieces), size)]


def cluster(rows: np.ndarray, episodes: int, restarts: int = 10, seed: int = 42) -> Clusters:
    """K-means of unit rows (n, d), the restart with the smallest sum of squared distances; episodes that nobody joins are left out."""
    points = torch.from_numpy(rows).unsqueeze(0)
    labels, centres = kmeans(
        points.expand(restarts, -1, -1), episodes, iterations=100, cosine=False, seed=seed
    )
    own = centres.gather(1, labels.unsqueeze(-1).expand(-1, -1, rows.shape[1]))
    best = int((points - own).square().sum((1, 2)).argmin())
    found, renamed = np.unique(labels[best].numpy(), return_inverse=True)
    centroids = centres[best].numpy()[found]
    centroids = centroids / np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    near = rows @ centroids.T
    medoids = []
    for episode in range(len(found)):
        members = np.flatnonzero(renamed == episode)
        medoids.append(tuple(members[np.argsort(-near[members, episode], kind="stable")].tolist()))
    return Clusters(tuple(renamed.tolist()), centroids, tuple(medoids))


def token_means(model: Any) -> Encoder:
    """The mean of the model's own token embeddings as the embedding of a text."""
    table = model.hf.get_input_embeddings().weight

    def encode(texts: Sequence[str]) -> np.ndarray:
        rows = [
            table[torch.tensor(model.encode(text), device=table.device)].float().mean(0) for text in texts
        ]
        return torch.stack(rows).cpu().numpy()

    return encode
