"""Options that the commands on a memory share."""

from typing import Annotated

import typer

Memory = Annotated[str, typer.Option(help="Memory file (made when missing), or a postgresql:// address.")]
Held = Annotated[str, typer.Option(help="Memory file, or a postgresql:// address.")]
Tenant = Annotated[str, typer.Option(help="Whose memory.")]
System = Annotated[
    str | None, typer.Option(help="passages, zep, scm, gsw, comorag, hipporag2, mem0, memgpt or raptor.")
]
Model = Annotated[str, typer.Option(help="none, local:NAME, openai:MODEL or http://HOST/v1#MODEL.")]
Embedder = Annotated[
    str | None,
    typer.Option(
        help="minilm, hashing or a model folder; by default the memory's own, minilm for a new one."
    ),
]
FilledWith = Annotated[
    str | None, typer.Option(help="The one it was filled with; only a model folder has to be named.")
]
