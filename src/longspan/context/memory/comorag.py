"""ComoRAG: three indexes, and a loop that probes, writes cues into a pool and tries again until it can answer.

Source: "ComoRAG: A Cognitive-Inspired Memory-Organized RAG for Stateful Long Narrative Reasoning" (2025), code
EternityJune25/ComoRAG (MIT, on HippoRAG 2). Veridical index: passages by the triple graph. Semantic: a tree of cluster
summaries. Episodic: summaries of consecutive windows in reading order. `answer` tries up to `cycles + 1` times; on "*" it
asks for probes, retrieves and reads for each, fuses the better half of the pool, and tries again with the cues.

Where this differs: probes of one cycle do not fetch each other's texts again (the code compares with older cycles only),
an unusable probe answer ends the loop instead of repeating the same context, empty cues are not fused and at least
`fused_least` findings are (half of two would lose one of two hops), and triples are JSON.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import dated, segment
from longspan.context.memory.plain import hybrid_records
from longspan.context.memory.tree import build_tree, cut_to, replace_kind, summarise
from longspan.context.memory.triples import TripleGraph, TripleKnobs
from longspan.context.packer import Segment
from longspan.context.port import LimitReached, PortError
from longspan.context.prompts import graph as prompts
from longspan.context.stores.base import NOW, AsOf, Record

LEVELS = ("veridical", "semantic", "episodic")
MARKER = "final answer:"


@dataclass(frozen=True)
class ComoKnobs:
    """`budgets` are tokens of the three levels as in the published script; `cycles` come after the first try."""

    cycles: int = 5
    top: int = 50
    budgets: tuple[int, int, int] = (2000, 2000, 2000)
    fused_share: float = 0.5
    fused_least: int = 3
    probes: int = 3


@dataclass(frozen=True)
class Node:
    """What one probe found at one level: the texts, and the cue the model wrote about them."""

    probe: str
    level: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    cue: str


@dataclass
class Answer:
    """`text` is "*" when no try succeeded. `tries` counts reader calls, `pool` is everything that was found."""

    text: str
    tries: int
    pool: list[Node] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)


class Probes(BaseModel):
    probes: list[str]


def window_size(count: int) -> int:
    """Passages a timeline window, by the number of passages."""
    for most, size in ((5, 2), (20, 3), (50, 5), (100, 8), (200, 10)):
        if count <= most:
            return size
    return min(20, max(10, math.floor(2 * math.log2(count))))


class ComoRag(TripleGraph):
    name = "comorag"

    def __init__(self, *args, knobs: ComoKnobs | None = None, **options):
        # The released code overwrites HippoRAG's passage weight.
        super().__init__(
            *args, triple_knobs=options.pop("triple_knobs", TripleKnobs(passage_weight=0.005)), **options
        )
        self.knobs = knobs or ComoKnobs()

    def remember(self, tenant, episodes, ledger: Ledger | None = None):
        ledger = ledger or Ledger()
        done = super().remember(tenant, episodes, ledger)
        if done.stored:
            self.index(tenant, ledger)
        return done

    def forget(self, tenant, selector, ledger: Ledger | None = None):
        purged = super().forget(tenant, selector, ledger)
        if purged.removed:
            self.index(tenant, ledger or Ledger())
        return purged

    def index(self, tenant: str, ledger: Ledger) -> None:
        """Build the semantic tree and the timeline over all passages."""
        leaves = self.store.get(tenant, kind="episode")
        build_tree(
            self, tenant, leaves, kind="semantic", prompt=prompts.SUMMARY, ledger=ledger, summary_tokens=400
        )
        size = window_size(len(leaves))
        windows = [leaves[i : i + size] for i in range(0, len(leaves), size)]
        made = [summarise(self, tenant, w, "episodic", prompts.SUMMARY, ledger, 400) for w in windows]
        replace_kind(self, tenant, "episodic", made)

    # -- one retrieval over the three levels

    def retrieve(
        self, tenant: str, probe: str, seen: set[str], at: AsOf, model: Metered, ledger: Ledger
    ) -> dict[str, list[Record]]:
        """Per level the records for a probe that are not in `seen`; veridical and episodic in reading order."""
        ranked = [record for record, _ in self.graph_rank(tenant, probe, at, model, ledger)]
        found = {"veridical": ranked[: self.knobs.top]}
        for level in LEVELS[1:]:
            found[level] = hybrid_records(
                self.store, tenant, probe, self.embedder, (level,), self.knobs.top, at, ledger, "dense"
            )
        return {level: [r for r in records if r.id not in seen] for level, records in found.items()}

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        """One retrieval: half the budget for passages, a quarter each for the two kinds of summaries."""
        found = self.retrieve(tenant, query, set(), at, model, ledger)
        shares = {"veridical": budget // 2, "semantic": budget // 4, "episodic": budget // 4}
        segments = []
        for level, records in found.items():
            texts = {r.id: dated(r) for r in records}
            kept = cut_to(self, list(texts.values()), shares[level])
            segments += [segment(r, rank, text) for rank, (r, text) in enumerate(zip(records, kept))]
            # What one level leaves over is filled with the next passages.
            if level == "veridical":
                rest = records[len(kept) :]
        tail = [segment(r, 1000 + rank, dated(r)) for rank, r in enumerate(rest)]
        return [*segments, *tail]

    # -- the loop

    def answer(self, tenant: str, question: str, *, at: AsOf = NOW, ledger: Ledger | None = None) -> Answer:
        """Try, and when the reader says "*", probe and try again. A spent limit gives what there is so far."""
        ledger = ledger or Ledger()
        model = self._metered(ledger, "query")
        state = Answer("*", 0)
        with suppress(LimitReached):
            self._loop(tenant, question, state, at, model, ledger)
        return state

    def _loop(
        self, tenant: str, question: str, state: Answer, at: AsOf, model: Metered, ledger: Ledger
    ) -> None:
        fresh = self._encode(tenant, question, question, state, at, model, ledger)
        history, use_cues = "", False
        for cycle in range(self.knobs.cycles + 1):
            context = self._context(fresh, use_cues)
            said = model.at("reader").complete(
                prompts.READ.render(**context, history=history, question=question), max_tokens=2048
            )
            state.tries += 1
            state.text = final_answer(said.text)
            if state.text != "*" or cycle == self.knobs.cycles:
                return
            probes = self._probe(question, context, history, state, model)
            if not probes:
                return
            fresh = []
            for probe in probes:
                fresh += self._encode(tenant, probe, f"{question} {probe}", state, at, model, ledger)
            state.probes += probes
            history = self._fuse(question, state.pool, model, ledger)
            use_cues = True

    def _encode(
        self, tenant: str, probe: str, focus: str, state: Answer, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Node]:
        """Retrieve for a probe and let the model write a cue for each level; the nodes join the pool."""
        seen = {id for node in state.pool for id in node.ids}
        found = self.retrieve(tenant, probe, seen, at, model, ledger)
        made = []
        for level, budget in zip(LEVELS, self.knobs.budgets):
            kept = cut_to(self, [record.text for record in found[level]], budget)
            if not kept:
                continue
            used = found[level][: len(kept)]
            if level != "semantic":
                used = sorted(used, key=lambda r: (r.valid_from or r.recorded_at, r.id))  # type: ignore[arg-type,return-value]
            texts = "\n".join(record.text for record in used) if len(kept) > 1 else kept[0]
            cue = (
                model.at("cue").complete(prompts.CUE.render(question=focus, texts=texts), max_tokens=512).text
            )
            made.append(Node(probe, level, tuple(texts.split("\n")), tuple(r.id for r in used), cue.strip()))
        state.pool += made
        return made

    def _context(self, nodes: Sequence[Node], use_cues: bool) -> dict[str, str]:
        def joined(level: str) -> str:
            chosen = [node for node in nodes if node.level == level]
            return "\n".join(node.cue if use_cues else "\n".join(node.texts) for node in chosen)

        return dict(zip(("details", "summaries", "timeline"), map(joined, LEVELS)))

    def _probe(
        self, question: str, context: dict[str, str], history: str, state: Answer, model: Metered
    ) -> list[str]:
        """New probes, none when the model gives no usable ones."""
        text = "\n".join([*context.values(), history])
        try:
            messages = prompts.PROBES.render(question=question, context=text, earlier="\n".join(state.probes))
            said = model.at("probes").complete(messages, schema=Probes, max_tokens=256).parsed.probes
        except LimitReached:
            raise
        except PortError:
            return []
        fresh = [probe.strip() for probe in said if probe.strip() and probe.strip() not in state.probes]
        return list(dict.fromkeys(fresh))[: self.knobs.probes]

    def _fuse(self, question: str, pool: Sequence[Node], model: Metered, ledger: Ledger) -> str:
        """The better half of the findings (by the cosine of probe and cue with the question) as one account."""
        pool = [node for node in pool if node.cue]
        if not pool:
            return ""
        vectors = self._embed([question, *(f"{node.probe} {node.cue}" for node in pool)], ledger, "query")
        scores = vectors[1:] @ vectors[0]
        count = max(self.knobs.fused_least, math.ceil(len(pool) * self.knobs.fused_share))
        best = sorted(sorted(range(len(pool)), key=lambda i: (-scores[i], i))[:count])
        findings = "\n".join(pool[i].cue for i in best)
        return (
            model.at("fuse")
            .complete(prompts.FUSE.render(question=question, findings=findings), max_tokens=512)
            .text
        )


def final_answer(text: str) -> str:
    """What stands after the last marker; a text without a marker is the answer itself."""
    place = text.lower().rfind(MARKER)
    if place < 0:
        return text.strip()
    return text[place + len(MARKER) :].strip().strip("`") or "*"


def one_shot(memory: ComoRag) -> ComoRag:
    """The same memory without probing: what the loop is compared with."""
    twin = object.__new__(ComoRag)
    twin.__dict__.update(memory.__dict__)
    twin.knobs = replace(memory.knobs, cycles=0)
    return twin
