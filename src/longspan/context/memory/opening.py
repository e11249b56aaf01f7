"""A memory by name: where it is stored, which system, which model and embedder; what the commands and the server use.

A store remembers its system and embedder and refuses another. Locations: the path of a file, or a postgresql:// DSN.
Models: "none" (heuristics), "local" or "local:NAME" (the engine), "URL#MODEL" (an OpenAI-compatible server), "openai:MODEL".
"""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longspan.context.documents import read_document
from longspan.context.memory.base import Episode, StoreMemory, passages
from longspan.context.memory.comorag import ComoRag
from longspan.context.memory.gsw import Gsw
from longspan.context.memory.heuristics import heuristic_model
from longspan.context.memory.hipporag2 import HippoRag2
from longspan.context.memory.mem0 import Mem0
from longspan.context.memory.memgpt import MemGpt
from longspan.context.memory.plain import Passages
from longspan.context.memory.raptor import Raptor
from longspan.context.memory.scm import Scm
from longspan.context.memory.zep import Zep
from longspan.context.port import ChatModel
from longspan.context.retrieval.embedders import embedder as embedder_named
from longspan.context.stores.base import Store, now, utc
from longspan.context.stores.sqlite import SqliteStore
from longspan.errors import BadInput, nearest

SYSTEMS: dict[str, Callable[..., StoreMemory]] = {
    "passages": Passages,
    "zep": Zep,
    "scm": Scm,
    "hipporag2": HippoRag2,
    "comorag": ComoRag,
    "raptor": Raptor,
    "gsw": Gsw,
    "mem0": Mem0,
    "memgpt": MemGpt,
}


def open_store(location: str, must_exist: bool = False) -> Store:
    if location.startswith(("postgresql://", "postgres://")):
        from longspan.context.stores.postgres import PostgresStore

        return PostgresStore(location)
    path = Path(location).expanduser()
    if must_exist and not path.exists():
        raise BadInput(
            f"there is no memory at {path}; make one with `longspan remember FILE --memory {path}`"
        )
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    return SqliteStore(path)


def chat_model(spec: str, wanted_by: str = "") -> ChatModel:
    """The model of a specification. `wanted_by` names what cannot do with the built-in heuristic ("none")."""
    kind, _, rest = spec.partition(":")
    if spec == "none" and wanted_by:
        raise BadInput(
            f"{wanted_by} needs a model; give --model local:NAME, openai:MODEL or http://HOST/v1#MODEL"
        )
    if spec == "none":
        return heuristic_model()
    if kind == "local":
        from longspan.context.backends.local import Local
        from longspan.engine.aliases import ALIASES

        name = rest or "smollm2-135m"
        if "/" not in name and name not in ALIASES and not Path(name).expanduser().exists():
            raise BadInput(
                f"there is no local model {name!r}; {nearest(name, ALIASES)} (a folder or a .gguf file works too)"
            )
        return Local(name)
    if kind in ("http", "https", "openai"):
        return chat_endpoint(spec)
    raise BadInput(f"{spec!r} names no model; use none, local:NAME, openai:MODEL or http://HOST/v1#MODEL")


def chat_endpoint(spec: str, **options: Any) -> ChatModel:
    """The endpoint of a specification, URL#MODEL or openai:MODEL. `options`: of `Endpoint`."""
    from longspan.context.backends.endpoint import Endpoint

    kind, _, rest = spec.partition(":")
    url, _, model = spec.rpartition("#")
    if kind in ("http", "https") and url and model:
        return Endpoint(model, base_url=url, **options)
    if kind == "openai" and rest:
        return Endpoint(rest, **options)
    raise BadInput(f"{spec!r} names no endpoint; use http://HOST/v1#MODEL or openai:MODEL")


def open_memory(
    location: str,
    *,
    system: str | None = None,
    model: str = "none",
    embedder: str | None = None,
    must_exist: bool = False,
    wanted_by: str = "",
    knobs: Any = None,
) -> StoreMemory:
    """Open or make a memory; `wanted_by` as for `chat_model`. `system` and `embedder` None take those it was made with, "passages" and "minilm" for a new one.

    knobs: of the system (`ScmKnobs` and its like), None for its defaults. What is refused leaves no new file.
    """
    if system is not None and system not in SYSTEMS:
        raise BadInput(f"there is no memory system {system!r}; {nearest(system, SYSTEMS)}")
    chat = chat_model(model, wanted_by)
    new = is_new(location)
    store = open_store(location, must_exist)
    try:
        named = store.bind("system", system or "passages", keep=system is None)
        options = {} if knobs is None else {"knobs": knobs}
        return SYSTEMS[named](store, chat, embedder_named(embedder or _filled_with(store)), **options)
    except BadInput:
        store.close()
        if new:
            Path(location).expanduser().unlink(missing_ok=True)
        raise


def is_new(location: str) -> bool:
    """Whether opening this location makes a file."""
    return (
        not location.startswith(("postgresql://", "postgres://")) and not Path(location).expanduser().exists()
    )


def _filled_with(store: Store) -> str:
    """The name of the embedder that a store is bound to; a model folder's cannot be told, and the store then refuses MiniLM."""
    return "hashing" if store.embedder is not None and store.embedder[0].startswith("hashing-") else "minilm"


def asked(query: str, budget: int) -> None:
    """The one check of what a person or a client asks a memory for."""
    if not query.strip():
        raise BadInput("the question is empty; say what to look for")
    if budget < 1:
        raise BadInput(f"the budget is {budget} tokens; give at least 1")


def episodes_of(
    path: str | Path, *, session: str = "", speaker: str = "", time: datetime | None = None
) -> list[Episode]:
    """Episodes of a file: the turns of a .jsonl conversation ({"text", "speaker", "time", "session"} a line), else passages."""
    path = Path(path).expanduser()
    if path.suffix.lower() == ".jsonl":
        return _turns(read_document(path).text, path, session, time)
    document = read_document(path)
    made = passages(document.text, path.name, time or now(), session=session)
    return [_spoken(e, speaker) for e in made] if speaker else made


def _spoken(episode: Episode, speaker: str) -> Episode:
    from dataclasses import replace

    return replace(episode, speaker=speaker)


def _turns(text: str, path: Path, session: str, time: datetime | None) -> list[Episode]:
    made = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            said = str(row["text"])
            told = datetime.fromisoformat(row["time"]) if "time" in row else time
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f'line {number} of {path.name} is not a turn; each line needs {{"text": ..., "speaker": ..., "time": ISO 8601}}'
            ) from error
        if told is None:
            raise BadInput(f"line {number} of {path.name} has no time; add one to every line or give --time")
        told = utc(told if told.tzinfo else told.replace(tzinfo=UTC))
        made.append(
            Episode(said, told, str(row.get("speaker", "")), str(row.get("session", session)) or path.name)
        )
    if not made:
        raise BadInput(f"{path.name} holds no turns")
    return made


def instant_of(text: str | None) -> datetime | None:
    """An ISO 8601 time from the command line; without a zone it is UTC."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{text!r} is not a time; write it like 2026-05-31 or 2026-05-31T14:00+02:00"
        ) from error
    return utc(time if time.tzinfo else time.replace(tzinfo=UTC))


def told_in(
    paths: Sequence[Path], memory: str = "", **options: Any
) -> tuple[list[tuple[Path, list[Episode]]], list[str]]:
    """(path, episodes) of the given files and of all files in given folders, and why files of a folder were passed over.

    memory: where they will be stored; the files of the store itself are no source. options: as for `episodes_of`. BadInput for a named file that cannot be read, and for folders without anything readable.
    """
    told: list[tuple[Path, list[Episode]]] = []
    passed: list[str] = []
    own = (
        {Path(memory + ending).expanduser().resolve() for ending in ("", "-wal", "-shm")} if memory else set()
    )
    for path in (path.expanduser() for path in paths):
        if not path.is_dir():
            told.append((path, episodes_of(path, **options)))
            continue
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            if file.resolve() in own:
                continue
            try:
                told.append((file, episodes_of(file, **options)))
            except BadInput as error:
                passed.append(str(error))
    if not told:
        raise BadInput(passed[0] if passed else f"there are no files in {', '.join(map(str, paths))}")
    return told, passed
