"""Knobs under which every registered method decides something on a tiny model that reads 96 tokens, and those under which it changes nothing.

A method whose default knobs do not fit a tiny model says smaller ones in `SMALL`.
"""

import re

SMALL: dict[str, str] = {
    "kivi": "group=8, residual=16",
    "quest": "page=4, dense_layers=0, refresh=4",
    "double_sparsity": "channels=4, dense_layers=0, refresh=4, window=8",
    "shadowkv": "chunk=4, local=1, refresh=4",
    "squeezed_attention": "clusters=0.2, window=8",
    "delta": "page=4, recent_pages=1, refresh=4",
    "tidaldecode": "refresh=4",
    "clusterkv": "per_cluster=8, sink=2, refresh=4",
    "arkvale": "page=4, dense_layers=0, refresh=4",
    "infllm": "block=8, representatives=2, sink=2, local=4, refresh=4",
    "actqkv": "block=8, representatives=2, sink=2, local=4, window=16, refresh=4",
    "retrolm": "page=4, refresh=4",
    "longheads": "chunk=8, refresh=8, history=200",
    "snapkv": "window=8",
    "speckv": "window=8, lookahead=4",
    "epicache": "prompt=(9, 11, 13)",
    "pyramidkv": "window=8",
    "finch": "window=8",
    "kvzip": 'chunk=40, prompt="", prompt_next=""',
    "cam": "targets=4, every=3",
    "think": "window=8, recent=16",
    "a_shape": "sink=8, window=24, tile=8",
    "chelsea": "recent=8, chunk=16",
    "chunkllm": "scorer=random, chunks=fixed, longest=8, refresh=4",
    "magicpig": "bits=3, tables=20, sink=2, local=4, refresh=4, every=0",
    "moa": "plan=uniform, block=8, every=4",
    "compresskv": "first_k=0, layers=uniform",
    "look_m": "text_prior=false",
    "duoattention": "sink=2, recent=4",
    "xattention": "stride=4, tile=8",
    "sale": "query_tile=8, key_tile=8, local=8, dense_below=8",
    "spargeattention": "query_tile=16, key_tile=8",
    "flexprefill": "gamma=0.5, least=8, probe=8, tile=8",
    "minference": "vertical=8, slash=12, probe=8, tile=8",
    "mminference": "vertical=8, slash=12, probe=8, tile=8",
    "random_tiles": "tile=8",
    "oracle_tiles": "tile=8",
}
COMMA = re.compile(r",(?![^()]*\))")  # between knobs, not inside a value such as (1, 2)
WHOLE: dict[str, str] = {
    "a_shape": "window=100000",
    "cachegen": "level=0",
    "kivi": "bits=16",
    "think": "channels=1.0",
    "minference": "slash=100000",
    "mminference": "slash=100000",
    "flexprefill": "gamma=1.0",
}  # the knobs under which a method without a budget is the identity


def spell(name: str, knobs: str = "") -> str:
    given = {}
    parts = (p.strip() for text in (SMALL.get(name, ""), knobs) for p in COMMA.split(text))
    for part in filter(None, parts):
        key, value = part.split("=")
        given[key.strip()] = value
    return f"{name}({', '.join(f'{k}={v}' for k, v in given.items())})"
