"""Agreement with a peer: NVIDIA/kvpress 0.5.5 and this project compress the same text to the same entries.

    python bench/kvpress_agreement.py --peer /path/to/peer/bin/python [--texts prose filler] [--only NAME ...]

The peer lives in an environment of its own (`pip install torch kvpress==0.5.5`, which brings the transformers version it wants). Both read
320 tokens with the same weights (the safetensors that the model was loaded from; fp32, CPU), keep the same number of entries, and score the
24 tokens that really follow; compared is the log-probability of each of them. Rows marked "same" follow one definition on both sides, with knobs set to the
peer's where they differ, and must agree to 0.01 nats. Rows marked "differs" follow two definitions, each with its reason, and are reported.

What is done differently and does not change a result: kvpress recomputes queries from hidden states, here they are kept while reading;
kvpress compresses a layer while the same forward goes on to the next, here all layers after the read, which is the same because a layer's
output is computed before its cache is cut; head-wise budgets (AdaKV, KVzip) leave all entries in place and overwrite those that lost with a
key of weight zero, here they are gone; eager attention is needed for observed attention, here column sums are recomputed in blocks.

Rows whose entries differ only by ties are counted apart: of entries whose scores are equal to 1e-6 either may stay. Not compared: CAMPress
(draws from the global generator, and picks victims by the mean over KV heads, here each head picks its own), and presses without counterpart.
Results: bench/results/kvpress_agreement.json.
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from kvpress_pairs import READ, WINDOW, pairs

import longspan
from longspan.bench.haystacks import open_haystack
from longspan.bench.run import machine
from longspan.bench.testbed import COLLECT
from longspan.engine.generate import score
from longspan.engine.recipe import parse

FOLLOWING = 24  # tokens whose log-probabilities are compared
TARGET = 0.01  # nats, per continued token
TIE = 1e-6  # of a score: the last bits of fp32
HERE = Path(__file__).parent
#: Presses after which the peer takes one token at a time: its masked keys are made for each query, and its layers may differ in length.
STEPWISE = ("DuoGiven", "AdaKVPress", "KVzipPress", "KVzipBare", "PyramidKVPress")


def text_ids(lm, haystack):
    units = open_haystack(haystack).units
    text = "".join(units[(300 + i) % len(units)] for i in range(READ))
    return lm.encode(text, special=True)[: READ + FOLLOWING]


def ours(lm, chosen, ids):
    """(log-probabilities of the following tokens, sessions after the text, the dense read), one for each pair; one read for all that can share it."""
    read, following = torch.tensor(ids[:READ]), torch.tensor(ids[READ:])
    base = lm.session(collect=COLLECT, chunk=128).feed(read)
    sessions = []
    for pair in chosen:
        recipe = parse(pair.recipe)
        if recipe.changes_prefill:
            session = lm.session(recipe, chunk=pair.chunk).feed(read)
        else:
            session = base.fork(recipe)
        session.finish_read()
        sessions.append(session)
    return [row.tolist() for row in score([(session, following) for session in sessions])], sessions, base


def swapped(lm, pair, session, base, kept):
    """(entries kept by one side only, their largest difference in score relative to the score) over all layers and heads.

    Scores of different entries can be equal up to rounding: in the first layer every key is a function of its token alone, and so is its
    norm. Which of them stays at the edge of the budget is then an accident of the last bit, on both sides.
    """
    count, gap = 0, 0.0
    scored = base.fork(parse(pair.recipe.replace("finch(", "finch(positions=original, ")))
    (method,) = scored.recipe.methods
    for order, layer in enumerate(session.growing_layers()):
        mine = session.layers[layer].store.padded().positions.long()
        scores = None
        for head, theirs in enumerate(kept[order]):
            odd = sorted(set(mine[head].tolist()) ^ set(theirs))
            if odd:
                if scores is None:
                    scores = method.score(scored.view(layer, method)).float()
                found = scores[head, odd]
                count += len(odd) // 2
                gap = max(gap, float((found.max() - found.min()) / found.abs().max()))
    return count, gap


def edge_ties(lm, pair, base, following):
    """Heads in which the first cut while writing falls between entries of equal score."""
    (method,) = parse(pair.recipe).methods
    grown = base.fork().feed(following[: method.every], reading=False)
    count = 0
    for layer in grown.growing_layers():
        scores = method.score(grown.view(layer, method)).float().sort(1, descending=True).values
        edge = scores[:, READ - 1 : READ + 1]
        count += int(((edge[:, 0] - edge[:, 1]) / edge.abs().amax(1) < TIE).sum())
    return count


def handed_scores(lm, ids):
    """The random policy's scores, a list (Hk, T) a layer."""
    session = lm.session("random").feed(torch.tensor(ids[:READ]))
    (method,) = session.recipe.methods
    return [method.score(session.view(layer, method)).tolist() for layer in session.growing_layers()]


def peer(python, folder, lm, chosen, ids, threads):
    model = folder / "model"
    if not model.exists():
        shutil.copytree(lm.source, model)
        tokenizer = copy.deepcopy(lm.tokenizer)
        (model / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.chat_template = None  # KVzipPress would put parts of it into its request
        tokenizer.save_pretrained(model)
    cases = []
    for pair in chosen:
        spec = pair.press
        if spec and spec["class"] == "Given":
            spec = {**spec, "scores": handed_scores(lm, ids)}
        stepwise = pair.decoding or (spec or {}).get("class") in STEPWISE
        cases.append(
            {
                "press": spec,
                "eager": pair.eager,
                "decoding": pair.decoding,
                "stepwise": stepwise,
                "window": WINDOW,
            }
        )
    job = {"ids": ids[:READ], "continued": ids[READ:], "threads": threads, "cases": cases}
    (folder / "job.json").write_text(json.dumps(job))
    subprocess.run([python, str(HERE / "kvpress_peer.py"), str(folder)], check=True)
    return json.loads((folder / "peer.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", default=sys.executable, help="the interpreter that has kvpress")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", nargs="*", default=["prose", "filler"])
    parser.add_argument("--only", nargs="*", help="names of pairs, or parts of them")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "kvpress_agreement.json")
    given = parser.parse_args()
    lm = longspan.load(given.model, dtype="float32", device="cpu")
    chosen = [p for p in pairs(lm) if not given.only or any(part in p.name for part in given.only)]
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"texts": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for text in given.texts:
            ids = text_ids(lm, text)
            mine, sessions, base = ours(lm, chosen, ids)
            theirs = peer(given.peer, Path(temporary), lm, chosen, ids, torch.get_num_threads())
            rows = stored["texts"].setdefault(text, {})
            for pair, a, session, other in zip(chosen, mine, sessions, theirs["cases"], strict=True):
                first, *_, last = (
                    session.layers[i].store.entries / lm.geometry.kv_heads for i in session.growing_layers()
                )
                odd = swapped(lm, pair, session, base, other["kept"]) if other["kept"] else (None, None)
                ties = edge_ties(lm, pair, base, torch.tensor(ids[READ:])) if pair.decoding else 0
                ties += bool(odd[0]) and odd[1] < TIE
                gaps = [abs(x - y) for x, y in zip(a, other["logprobs"], strict=True)]
                rows[pair.name] = {
                    "recipe": pair.recipe,
                    "peer": pair.press,
                    "definition": "same" if pair.same else "differs",
                    "note": pair.note,
                    "entries_a_head": [first, last],
                    "peer_entries_a_head": [other["held"][0], other["held"][-1]],
                    "entries_kept_by_one_side": odd[0],
                    "their_scores_differ_by": odd[1] and float(f"{odd[1]:.1e}"),
                    "hangs_on_ties": bool(ties),
                    "largest_difference_nats": round(max(gaps), 6),
                    "mean_difference_nats": round(sum(gaps) / len(gaps), 6),
                    "mean_nll": round(-sum(a) / len(a), 4),
                    "peer_mean_nll": round(-sum(other["logprobs"]) / len(gaps), 4),
                }
                row = rows[pair.name]
                print(f"{text:7s} {row['definition']:7s} {pair.name:34s} {row['largest_difference_nats']:.6f} {odd} "
                      f"mean {row['mean_difference_nats']:.6f}{' ties' if ties else ''}", flush=True)  # fmt: skip
            stored |= {
                "model": given.model,
                "machine": machine(),
                "read": READ,
                "following": FOLLOWING,
                "ours": {"transformers": transformers.__version__, "torch": torch.__version__},
                "peer": {
                    "kvpress": "0.5.5",
                    "transformers": theirs["transformers"],
                    "torch": theirs["torch"],
                },
            }
            same = [r for t in stored["texts"].values() for r in t.values() if r["definition"] == "same"]
            ties = [r for r in same if r["hangs_on_ties"]]
            sure = [r["largest_difference_nats"] for r in same if r not in ties]
            stored["same_definition"] = {
                "rows": len(same),
                "with_ties": len(ties),
                "largest_with_ties": max((r["largest_difference_nats"] for r in ties), default=None),
                "others": len(sure),
                "others_within_0.01_nats": sum(x <= TARGET for x in sure),
                "largest_of_others": max(sure, default=None),
            }
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
