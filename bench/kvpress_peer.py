"""The peer's half of `kvpress_agreement.py`: NVIDIA/kvpress reads, compresses and continues; run by the peer's own interpreter.

    PEER_PYTHON bench/kvpress_peer.py FOLDER

FOLDER/model holds the weights and the tokenizer, FOLDER/job.json the cases, FOLDER/peer.json receives the log-probabilities. Nothing of
Longspan is imported here. A press is described as {"class": its name, and its arguments}; arguments may be presses again.

Three presses are wrapped, because what they do by themselves cannot be asked for from outside: `Given` keeps by scores that are handed over
(what RandomPress draws depends on its own generator), `DuoGiven` takes its head pattern from here (DuoAttentionPress downloads one), and
`KVzipBare` repeats without the line break that KVzipPress puts between its request and the text when a tokenizer has no chat template.
"""

import contextlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import kvpress
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


@dataclass
class Given(kvpress.ScorerPress):
    """scores: one (Hk, T) list a layer."""

    scores: list = field(default_factory=list)

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return torch.tensor(self.scores[module.layer_idx]).unsqueeze(0)


@dataclass
class KVzipBare(kvpress.KVzipPress):
    def prepare(self, *args, **kwargs):
        self._suffix_ids = self._suffix_ids[:, :0]
        return super().prepare(*args, **kwargs)


@dataclass
class DuoGiven(kvpress.DuoAttentionPress):
    """streaming: one (Hk,) list of 0 and 1 a layer. window: sinks and newest tokens of streaming heads."""

    streaming: list = field(default_factory=list)
    window: tuple = (16, 64)

    def post_init_from_model(self, model):
        self.sink_size, self.recent_size = self.window
        self.streaming_mask = torch.tensor(self.streaming, dtype=torch.bool)


OWN = {"Given": Given, "KVzipBare": KVzipBare, "DuoGiven": DuoGiven}


def build(spec):
    if isinstance(spec, list):
        return [build(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    arguments = {name: build(value) for name, value in spec.items() if name != "class"}
    return (OWN.get(spec["class"]) or getattr(kvpress, spec["class"]))(**arguments)


def logprobs(model, ids, rows):
    """Log-probabilities of ids[i] in rows[i]; tokens added to the vocabulary by a press are left out of the softmax."""
    rows = torch.stack(rows)[:, : model.config.vocab_size - getattr(model, "added", 0)]
    return rows.float().log_softmax(-1).gather(1, ids.view(-1, 1)).flatten().tolist()


def watched(press, scores):
    """The press itself; what it scores is also put into `scores`, (Hk, T) by layer."""
    own = press.score

    def score(module, *args, **kwargs):
        scores[module.layer_idx] = own(module, *args, **kwargs)[0]
        return scores[module.layer_idx].unsqueeze(0)

    press.score = score
    return press


@torch.no_grad()
def run(model, tokenizer, case):
    """Read case["ids"] under the press, then take case["continued"], one token at a time if case["stepwise"]; (log-probabilities, entries of each layer,
    positions kept by layer and head where the press scores by itself, else None)."""
    ids, continued = torch.tensor(case["ids"]), torch.tensor(case["continued"])
    model.set_attn_implementation("eager" if case["eager"] else "sdpa")
    press, scores = build(case["press"]) if case["press"] else None, {}
    if isinstance(press, kvpress.ScorerPress | kvpress.FinchPress):
        press = watched(press, scores)
    read, length = ids, len(ids)
    if isinstance(press, kvpress.FinchPress):
        before = model.get_input_embeddings().num_embeddings
        press.update_model_and_tokenizer(model, tokenizer)
        model.added = getattr(model, "added", 0) + model.get_input_embeddings().num_embeddings - before
        cut = len(ids) - case["window"]
        read = torch.cat((ids[:cut], torch.tensor([press.delimiter_token_id]), ids[cut:]))
    while_reading = press(model) if press and not case["decoding"] else contextlib.nullcontext()
    while_writing = press(model) if press and case["decoding"] else contextlib.nullcontext()
    cache = DynamicCache()
    with while_reading:
        rows = [model(input_ids=read.unsqueeze(0), past_key_values=cache, logits_to_keep=1).logits[0, -1]]
    if isinstance(press, kvpress.FinchPress):
        length = cache.get_seq_length()  # keys were moved together: the next token follows the last one kept
    held = [layer.keys.shape[2] for layer in cache.layers]
    blocks = continued[:-1].split(1 if case["stepwise"] else len(continued))
    with while_writing:
        for block in blocks:
            at = torch.arange(length, length + len(block)).unsqueeze(0)
            out = model(input_ids=block.unsqueeze(0), past_key_values=cache, position_ids=at)
            rows += out.logits[0]
            length += len(block)
    kept = [scores[i].topk(n).indices.sort().values.tolist() for i, n in enumerate(held)] if scores else None
    return logprobs(model, continued, rows), held, kept


def main(folder):
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    found = {"transformers": transformers.__version__, "torch": torch.__version__, "cases": []}
    for case in job["cases"]:
        values, held, kept = run(model, tokenizer, {**case, "ids": job["ids"], "continued": job["continued"]})
        found["cases"].append({"logprobs": values, "held": held, "kept": kept})
    (folder / "peer.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
