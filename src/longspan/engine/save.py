"""A session as one file: save it, load it later with the same model, and go on to the bit.

The file is safetensors with a trailer: every stored tensor of every segment, the ids, the logits and the run state of the methods; the
structure (segments of each layer, recipe, counters) as JSON in the metadata; then 32 bytes, the SHA-256 of all bytes before them. A file
that is truncated, altered, foreign, of another format version or of another model is refused with one sentence. Nothing is pickled.

Views into larger buffers are written as what they show, so a fork's file holds no spare room. The index of a selector is not written: it
follows from the keys and is built again over the entries it covered (from coded keys, where a quantiser has coded them since). Written to a temporary file first and renamed, so that a crash leaves
either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from longspan.engine.needs import Needs
from longspan.engine.packing import Packer, unpack
from longspan.engine.prompt import Compressed, Kept
from longspan.engine.segments import Tail
from longspan.engine.session import Session
from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.layer import LayerRun
    from longspan.engine.model import Model

FORMAT = "longspan-session"
VERSION = 1
#: What of a session and of each layer is stored as it is.
SESSION_FIELDS = (
    "length", "text_start", "texts_read", "horizon", "turn_open", "logits", "_last_logits", "_floor", "_marks", "_hidden", "_logprobs", "_run",
)  # fmt: skip
LAYER_FIELDS = ("window_queries", "query_moments", "indexed", "horizon")
DIGEST = hashlib.sha256().digest_size
Facts = dict[str, Any]


def save_session(session: Session, path: str | os.PathLike[str]) -> None:
    """Write `session` to `path`. BadInput for a recurrent model, a state that has no file form, or a place that cannot be written."""
    if session.recurrent is not None:
        raise BadInput(
            "A session of a model with recurrent layers cannot be saved yet; keep the text and read it again."
        )
    box = Packer()
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "model": session.model.name,
        "model_hash": session.model.model_hash,
        "dtype": str(session.model.dtype),
        "recipe": str(session.recipe),
        "options": {"chunk": session.chunk, "beyond_window": session.beyond_window},
        "needs": dataclasses.asdict(session.needs),
        "calls": {str(layer): list(call) for layer, call in session.model.calls.items()},
        "ids": box.pack(torch.tensor(session.ids, dtype=torch.int32)),
        "session": {name: box.pack(getattr(session, name)) for name in SESSION_FIELDS},
        "meter": box.pack(vars(session.meter)),
        "shortened": [dataclasses.asdict(done) for done in session.shortened],
        "layers": {str(index): _layer_facts(run, session, box) for index, run in session.layers.items()},
    }
    body = safetensors.torch.save(box.tensors, {"longspan": json.dumps(facts)})
    _write_whole(Path(path), body, hashlib.sha256(body).digest())


def load_session(model: Model, path: str | os.PathLike[str]) -> Session:
    """Return the session saved in `path`, continuing under `model`. BadInput says why a file is refused."""
    tensors, facts = _read(Path(path))
    if facts["model_hash"] != model.model_hash:
        raise BadInput(
            f"{path} belongs to the model {facts['model'] or facts['model_hash'][:12]}, not to {model.name or model.model_hash[:12]}; "
            "load the model it was saved with."
        )
    if facts["dtype"] != str(model.dtype):
        raise BadInput(
            f"{path} was saved from a model in {facts['dtype']}, this one is in {model.dtype}; load the model with that dtype."
        )
    session = _restored(model, facts, tensors)
    if session.selector is not None:
        _index_again(session, _restored(model, facts, tensors))
    return session


def _restored(model: Model, facts: Facts, tensors: dict[str, Tensor]) -> Session:
    """The session without its selector's index."""
    session = Session(model, facts["recipe"], collect=Needs(**facts["needs"]), **facts["options"])
    tensors = {name: value.to(model.device) for name, value in tensors.items()}
    for layer, (scale, softcap) in facts["calls"].items():
        model.calls.setdefault(int(layer), (scale, softcap))
    session.ids = unpack(facts["ids"], tensors).tolist()
    for name, made in facts["session"].items():
        setattr(session, name, unpack(made, tensors))
    vars(session.meter).update(unpack(facts["meter"], tensors))
    session.shortened = tuple(
        Compressed(**{**made, "manifest": tuple(Kept(**kept) for kept in made["manifest"])})
        for made in facts.get("shortened", ())
    )
    for index, run in session.layers.items():
        _restore(run, facts["layers"][str(index)], tensors)
    return session


# -- layers ------------------------------------------------------------------------------------------------------------
def _layer_facts(run: LayerRun, session: Session, box: Packer) -> Facts:
    selector = session.selector.name if session.selector is not None else None
    return {
        "segments": box.pack(run.store.segments),
        "tail": box.pack(run.store.tail.segment()),
        "side_specs": box.pack(run.store.side_specs),
        "state": box.pack({name: values for name, values in run.state.items() if name != selector}),
        "fields": {name: box.pack(getattr(run, name)) for name in LAYER_FIELDS},
        "counters": box.pack(vars(run.counters)),
    }


def _restore(run: LayerRun, facts: Facts, tensors: dict[str, Tensor]) -> None:
    store = run.store
    store.side_specs = unpack(facts["side_specs"], tensors)
    store.segments, store.tail = unpack(facts["segments"], tensors), Tail(store.side_specs)
    tail = unpack(facts["tail"], tensors)
    if tail is not None:
        store.tail.adopt(tail.k, tail.v, tail.side)
    run.state = unpack(facts["state"], tensors)
    for name, made in facts["fields"].items():
        setattr(run, name, unpack(made, tensors))
    vars(run.counters).update(unpack(facts["counters"], tensors))


def _index_again(session: Session, earlier: Session) -> None:
    """Build the selector's index as it was built: over a copy brought back to the length it had then."""
    selector = session.selector
    now = earlier.length
    for layer in session.growing_layers():
        run, copied = session.layers[layer], earlier.layers[layer]
        if not run.indexed:
            continue
        earlier.length = now - (min(run.store.lengths) - run.indexed)
        copied.store.truncate(earlier.length)
        selector.index(earlier.view(layer, selector))  # type: ignore[union-attr]
        run.state[selector.name] = copied.state[selector.name]  # type: ignore[union-attr]


# -- the file ---------------------------------------------------------------------------------------------------------
def _write_whole(path: Path, *parts: bytes) -> None:
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise BadInput(
            f"cannot write the session to {path} ({error.strerror}); choose another place."
        ) from None


def _read(path: Path) -> tuple[dict[str, Tensor], Facts]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"there is no session file {path}") from None
    except OSError as error:
        raise BadInput(f"cannot read the session file {path} ({error.strerror})") from None
    facts = _header(data)
    if facts is None:
        raise BadInput(f"{path} is not a session file; give one that Session.save wrote.")
    if facts["version"] != VERSION:
        raise BadInput(
            f"{path} has session format {facts['version']}, this version of longspan reads {VERSION}; read the text again, or use the version that wrote it."
        )
    body = data[:-DIGEST]
    if hashlib.sha256(body).digest() != data[-DIGEST:]:
        raise BadInput(
            f"{path} is damaged or cut short (its checksum does not match); save the session again."
        )
    try:
        return safetensors.torch.load(body), facts
    except SafetensorError as error:  # a valid checksum over something safetensors cannot read
        raise BadInput(f"{path} is not a session file ({error}).") from None


def _header(data: bytes) -> Facts | None:
    """The structure from the metadata, or None when the bytes are not a session. Needs no intact payload."""
    if len(data) < 8 + DIGEST:
        return None
    (size,) = struct.unpack("<Q", data[:8])
    try:
        facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["longspan"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT and "version" in facts else None
