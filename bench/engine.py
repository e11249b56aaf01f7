"""The engine's own figures, measured in one run: dense against transformers, shared prefill against one by one, bytes, peaks, forks.

    python bench/engine.py [--lengths 2048 8192] [--out bench/results/engine_cpu.json]

Times are medians of interleaved runs and are quoted as ratios; the machine may be shared. Bytes, entries and tokens are counted.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import DynamicCache

import longspan
from longspan.bench.haystacks import open_haystack
from longspan.bench.run import machine
from longspan.engine.batch import Work, forward
from longspan.engine.generate import generate
from longspan.engine.loading import load_weights
from longspan.engine.needs import Needs
from longspan.engine.recipe import parse

METHODS = ("snapkv", "keydiff", "tova", "h2o", "adakv", "window", "random", "quest")
BUDGETS = (0.5, 0.25)
NEW = 16


def text_ids(lm, tokens, start=0):
    units = open_haystack("prose").units
    return torch.tensor(lm.encode("".join(units[start : start + tokens]), special=True)[:tokens])


@torch.no_grad()
def plain_prefill(hf, ids, chunk):
    """The unmodified model with SDPA and DynamicCache, the same chunks, last-position logits only."""
    cache = DynamicCache()
    for start in range(0, len(ids), chunk):
        out = hf(
            input_ids=ids[None, start : start + chunk],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return cache, out.logits[0, -1]


@torch.no_grad()
def plain_decode(hf, cache, logits, steps):
    """Greedy decoding; returns (tokens, seconds a token)."""
    tokens, started = [], time.perf_counter()
    for _ in range(steps):
        token = logits.argmax()
        tokens.append(int(token))
        logits = hf(
            input_ids=token.view(1, 1), past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[0, -1]
    return tokens, (time.perf_counter() - started) / steps


@torch.no_grad()
def our_decode(session, steps):
    tokens, logits, started = [], session.next_logits(), time.perf_counter()
    for _ in range(steps):
        token = logits.argmax()
        tokens.append(int(token))
        (logits,) = forward(session.model, [Work(session, token.view(1))])
    return tokens, (time.perf_counter() - started) / steps


def dense(lm, hf, length, runs):
    """Prefill and decode seconds of both engines, interleaved; ratios above 1 mean that this engine is faster."""
    ids = text_ids(lm, length)
    times = {"prefill": ([], []), "decode": ([], [])}
    same = True
    for _ in range(runs):
        started = time.perf_counter()
        cache, logits = plain_prefill(hf, ids, 512)
        times["prefill"][0].append(time.perf_counter() - started)
        started = time.perf_counter()
        session = lm.session(chunk=512).read(ids)
        times["prefill"][1].append(time.perf_counter() - started)
        for _ in range(2):  # decode in turns, twice each
            theirs, seconds = plain_decode(hf, cache, logits, NEW)
            cache.crop(-NEW)
            times["decode"][0].append(seconds)
            ours, seconds = our_decode(session, NEW)
            session.rollback(NEW)
            times["decode"][1].append(seconds)
            same = same and ours == theirs
    found = {name: statistics.median(a) / statistics.median(b) for name, (a, b) in times.items()}
    found |= {f"{name}_best": min(a) / min(b) for name, (a, b) in times.items()}
    return {
        "length": length,
        "runs": runs,
        "same_text": same,
        "transformers_over_longspan": {k: round(v, 3) for k, v in found.items()},
    }


def sharing(lm, contexts, length):
    """8 methods x 2 budgets (and full) on a few contexts: one read each and packed decoding, against a read for every cell.

    One by one is measured for every recipe on one of the contexts, in turn with the shared runs, and multiplied by the number of contexts.
    """
    recipes = [parse(name).with_budget(b) for name in METHODS for b in BUDGETS] + [parse("full")]
    needs = Needs()
    for recipe in recipes:
        needs = needs | recipe.needs
    seconds = {"read": 0.0, "methods": 0.0, "decode": 0.0, "total": 0.0, "singles": 0.0}
    tokens, same = 0, 0
    for number in range(contexts):
        ids = text_ids(lm, length, 50 * number)
        began = time.perf_counter()
        base = lm.session(collect=needs)
        base.feed(ids)
        read = time.perf_counter()
        tokens += base.meter.prefilled_tokens
        cells = [base.fork(recipe) for recipe in recipes]
        for cell in cells:
            cell.finish_read()
        thinned = time.perf_counter()
        packed = [reply.ids for reply in generate(cells, max_new_tokens=NEW, ignore_eos=True)]
        ended = time.perf_counter()
        tokens += sum(cell.meter.prefilled_tokens for cell in cells)
        seconds["read"] += read - began
        seconds["methods"] += thinned - read
        seconds["decode"] += ended - thinned
        seconds["total"] += ended - began
        for index in range(number, len(recipes), contexts):
            started = time.perf_counter()
            session = lm.session(recipes[index]).read(ids)
            alone = generate([session], max_new_tokens=NEW, ignore_eos=True)[0].ids
            seconds["singles"] += time.perf_counter() - started
            same += alone == packed[index]
    total = seconds["total"]
    return {
        "cells": len(recipes) * contexts,
        "contexts": contexts,
        "length": length,
        "prefilled_tokens": tokens,
        "prefilled_tokens_one_by_one": len(recipes) * contexts * length,
        "total_over_prefill_plus_packed_decode": round(total / (seconds["read"] + seconds["decode"]), 3),
        "share_of_total": {part: round(seconds[part] / total, 3) for part in ("read", "methods", "decode")},
        "one_by_one_over_shared": round(seconds["singles"] * contexts / total, 2),
        "same_tokens_as_singles": same / len(recipes),
        "note": "one by one: every recipe on one of the contexts, in turn with the shared runs, times the number of contexts",
    }


def counted(lm):
    """Bytes and peaks that do not depend on the machine."""
    ids = text_ids(lm, 1024)
    dense_session = lm.session(collect=Needs(window_queries=32)).feed(ids)
    dense_bytes = lm.geometry.kv_elements_per_token * len(ids) * dense_session.element_size
    ada = dense_session.fork(parse("adakv(budget=0.25)"))
    ada.finish_read()
    layers = len(lm.geometry.growing) * lm.geometry.kv_heads
    chunked = lm.session("keydiff(budget=1024, when=chunk)", chunk=512).read(text_ids(lm, 8192))
    fork = dense_session.fork()
    pointers = {
        t.data_ptr()
        for run in dense_session.layers.values()
        for name, t in run.store.tensors()
        if name[0] in "kv"
    }
    copied = sum(
        t.numel() * t.element_size()
        for run in fork.layers.values()
        for name, t in run.store.tensors()
        if name[0] in "kv" and t.data_ptr() not in pointers
    )
    return {
        "adakv_0.25_cache_over_dense": round(ada.stats.cache_bytes / dense_bytes, 4),
        "adakv_0.25_side_over_dense": round(ada.stats.side_bytes / dense_bytes, 4),
        "chunked_8k_peak_entries_a_head": chunked.stats.peak_entries / layers,
        "chunked_8k_bound": 1024 + 512,
        "fork_copied_bytes": copied,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 8192])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--contexts", type=int, default=4)
    parser.add_argument("--parts", nargs="*", default=["dense", "sharing", "counted"])
    parser.add_argument("--out", type=Path, default=Path("bench/results/engine_cpu.json"))
    args = parser.parse_args()
    lm = longspan.load("smollm2-135m")
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    results["machine"] = machine()
    if "dense" in args.parts:
        hf = load_weights("smollm2-135m").model
        results["dense"] = [
            dense(lm, hf, length, args.runs if length <= 4096 else 1) for length in args.lengths
        ]
    if "sharing" in args.parts:
        results["sharing"] = sharing(lm, args.contexts, 2048)
    if "counted" in args.parts:
        results["counted"] = counted(lm)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
