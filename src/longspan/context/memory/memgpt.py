"""MemGPT-style paging: small core blocks, a message window with a recursive summary, and searched stores outside it.

Source: "MemGPT: Towards LLMs as Operating Systems" (Packer et al. 2023), code letta-ai/letta. Shares of the window are
recalled, not verified, and therefore knobs. The model works by tools, one JSON action a call; errors go back to it as text;
a loop has at most `steps` actions. When the window overflows, the older half of it (never the last three messages) is
folded into the summary, piece by piece so that the summariser itself can never overflow (a common failure of the
released code), and stays findable by search. A core block over its limit is refused with an error, never cut.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel

from longspan.context.chunking import chunks
from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory, dated, segment
from longspan.context.memory.tree import cut_to
from longspan.context.packer import Segment
from longspan.context.prompts import memgpt as prompts
from longspan.context.stores.base import NOW, AsOf, Record, Unit, content_id, utc

BLOCKS = ("persona", "human")


@dataclass(frozen=True)
class PagingKnobs:
    """`window` in tokens for the message queue; shares of it; `block` in characters."""

    window: int = 2000
    warn: float = 0.75
    evict: float = 0.5
    keep: int = 3
    block: int = 2000
    steps: int = 6
    page: int = 5


class Action(BaseModel):
    tool: Literal["core_append", "core_replace", "archive", "search_archive", "search_messages", "done"]
    block: str = "human"
    text: str = ""
    old: str = ""
    page: int = 0


@dataclass
class State:
    """What the model sees of its memory, and what this message will change."""

    core: dict[str, Record | None]
    summary: Record | None
    queue: list[Record]
    written: dict[str, Record]
    log: list[str]

    def core_text(self) -> str:
        return "\n".join(f"[{name}] {record.text if record else ''}" for name, record in self.core.items())


class MemGpt(StoreMemory):
    name = "memgpt"

    def __init__(self, *args, knobs: PagingKnobs | None = None, **options):
        super().__init__(*args, **options)
        self.knobs = knobs or PagingKnobs()

    def _state(self, tenant: str, at: AsOf = NOW) -> State:
        known = {r.data["block"]: r for r in self.store.get(tenant, kind="core", at=at)}
        (summary,) = self.store.get(tenant, kind="running_summary", at=at) or (None,)
        folded = set(summary.data["folded"]) if summary else set()
        queue = [r for r in self.store.get(tenant, kind="episode", at=at) if r.id not in folded]
        return State({name: known.get(name) for name in BLOCKS}, summary, queue, {}, [])

    # -- writing

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        state = self._state(tenant)
        state.queue = [r for r in state.queue if r.id != episode.id] + [episode.record()]
        self._flush(state, model)
        for _ in range(self.knobs.steps):
            action = self._next(prompts.MANAGE, state, episode, model)
            if action.tool == "done":
                break
            state.log.append(f"{action.tool}: {self._write(state, episode, action)}")
        archived = [r for r in state.written.values() if r.kind == "archive"]
        vectors = self._embed([record.text for record in archived], ledger, "ingest")
        for record, vector in zip(archived, vectors):
            state.written[record.id] = replace(record, vector=vector)
        return Unit(None, self.clock(), tuple(state.written.values()))

    def _next(self, prompt, state: State, episode: Episode, model: Metered) -> Action:
        used = self._queue_tokens(state) / self.knobs.window
        warning = " Memory pressure: messages will soon leave the window." if used >= self.knobs.warn else ""
        messages = prompt.render(
            core=state.core_text(),
            status=f"window {used:.0%} full.{warning}",
            summary=state.summary.text if state.summary else "",
            recent="\n".join(record.text for record in state.queue[:-1]),
            log="\n".join(state.log),
            message=episode.said,
        )
        return model.at("manage").complete(messages, schema=Action, max_tokens=512).parsed

    def _write(self, state: State, episode: Episode, action: Action) -> str:
        """Carry out a writing tool; what it says goes back to the model."""
        if action.tool == "archive":
            if not action.text.strip():
                return "error: there is no text to archive"
            id = content_id("archive", episode.id, action.text)
            state.written[id] = self._derived(episode, id, "archive", action.text.strip(), {}, (episode.id,))
            return "ok"
        if action.tool not in ("core_append", "core_replace"):
            return "error: this tool is not for writing"
        if action.block not in state.core:
            return f"error: there is no block {action.block}; blocks are {', '.join(BLOCKS)}"
        known = state.core[action.block]
        text = known.text if known else ""
        if action.tool == "core_replace":
            if not action.old or action.old not in text:
                return "error: the old text is not in the block"
            text = text.replace(action.old, action.text, 1)
        elif action.text.strip() in text.splitlines():
            return "ok, the block says so already"
        else:
            text = f"{text}\n{action.text.strip()}".strip()
        if len(text) > self.knobs.block:
            return f"error: the block would have {len(text)} characters, the limit is {self.knobs.block}"
        sources = tuple(dict.fromkeys((*(known.sources if known else ()), episode.id)))
        id = content_id("core", action.block)
        made = self._derived(episode, id, "core", text, {"block": action.block}, sources)
        state.core[action.block] = state.written[id] = made
        return "ok"

    def _derived(self, episode: Episode, id: str, kind: str, text: str, data: dict, sources) -> Record:
        return Record(
            id,
            kind,
            text,
            data,
            sources,
            valid_from=utc(episode.time) if kind == "archive" else None,
            prompt=prompts.MANAGE.id,
            model=self.model.model_id,
            trust="derived",
        )

    def _queue_tokens(self, state: State) -> int:
        summary = self.count(state.summary.text) if state.summary else 0
        return summary + sum(self.count(record.text) for record in state.queue)

    def _flush(self, state: State, model: Metered) -> None:
        """Fold the oldest messages into the summary while the window overflows and there is something to fold."""
        while self._queue_tokens(state) > self.knobs.window and len(state.queue) > self.knobs.keep:
            target, size, leaving = self.knobs.evict * self.knobs.window, 0, []
            for record in state.queue[: -self.knobs.keep]:
                if size >= target:
                    break
                leaving.append(record)
                size += self.count(record.text)
            text = state.summary.text if state.summary else ""
            joined = "\n".join(record.text for record in leaving)
            for piece in chunks(joined, max(1, self.knobs.window // 2), count=self.count):
                messages = prompts.SUMMARISE.render(summary=text, messages=piece.text)
                text = model.at("summary").complete(messages, max_tokens=300).text.strip()
            # A model may ignore the asked length; the summary must never fill the window again.
            text = cut_to(self, [text], max(1, self.knobs.window // 4))[0] if text else ""
            old = state.summary
            state.summary = Record(
                content_id("running_summary"),
                "running_summary",
                text,
                {"folded": [*(old.data["folded"] if old else []), *(record.id for record in leaving)]},
                tuple(dict.fromkeys((*(old.sources if old else ()), *(record.id for record in leaving)))),
                prompt=prompts.SUMMARISE.id,
                model=self.model.model_id,
                trust="derived",
            )
            state.written[state.summary.id] = state.summary
            state.queue = state.queue[len(leaving) :]

    # -- reading

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        """Core blocks, summary, what the model searched for, then the newest messages."""
        state, found = self._state(tenant, at), {}
        for _ in range(self.knobs.steps):
            messages = prompts.SEARCH.render(
                core=state.core_text(),
                summary=state.summary.text if state.summary else "",
                recent="\n".join(record.text for record in state.queue[-self.knobs.keep :]),
                log="\n".join(state.log),
                question=query,
            )
            action = model.at("search").complete(messages, schema=Action, max_tokens=256).parsed
            if action.tool not in ("search_archive", "search_messages"):
                break
            page = self._search(tenant, action, at, ledger)
            found.update({record.id: record for record in page})
            state.log.append(
                f"{action.tool} {action.text!r}: " + ("\n".join(map(dated, page)) or "nothing found")
            )
        first = [r for r in (*state.core.values(), state.summary) if r is not None and r.text]
        shown = {r.id: r for r in [*first, *found.values(), *reversed(state.queue)]}
        return [segment(record, rank, dated(record)) for rank, record in enumerate(shown.values())]

    def _search(self, tenant: str, action: Action, at: AsOf, ledger: Ledger) -> list[Record]:
        """One page of results: the archive by vectors, messages by their words."""
        start, size = max(0, action.page) * self.knobs.page, self.knobs.page
        if action.tool == "search_messages":
            rows = self.store.search_text(tenant, action.text, kinds=("episode",), limit=start + size, at=at)
        else:
            vector = self._embed([action.text], ledger, "query")[0]
            rows = self.store.search_vector(tenant, vector, kinds=("archive",), limit=start + size, at=at)
        return [record for record, _ in rows[start:]]
