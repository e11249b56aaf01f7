"""ChunkLLM's check: adapters that say where sentences end and which of them matter, against untrained ones, mean keys and a window, on text they were not trained on."""

import torch

from longspan.bench.checks._common import needle_figures, prose_figures, shows_better
from longspan.bench.checks._recall import decode_figures, same_as_full
from longspan.bench.recall import dense_rows
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine import calibration
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.methods.decode.chunkllm_train import Seen, agreement, boundary_logits, labelled, observe

EACH = "chunkllm(budget=0.25, trigger=token)"
UNTRAINED = "chunkllm(budget=0.25, trigger=token, scorer=random)"
MEAN = "chunkllm(budget=0.25, trigger=token, scorer=mean)"
HALF, HALF_EACH = "chunkllm(budget=0.5)", "chunkllm(budget=0.5, trigger=token)"
HALF_UNTRAINED, HALF_MEAN = "chunkllm(budget=0.5, scorer=random)", "chunkllm(budget=0.5, scorer=mean)"
WINDOW = "window(budget=0.5)"


@check(
    "chunkllm",
    system="chunkllm",
    claim="small adapters trained on a frozen model's attention find the sentences that matter, and one choice serves a whole sentence",
    file="src/longspan/methods/decode/chunkllm.py",
)
def chunkllm(bench: Bench) -> Outcome:
    outcome = Outcome()
    lm = bench.model()
    made = calibration.load("chunkllm", lm)
    for name in ("kl_first", "kl_last"):
        outcome.figures[f"training, nats a layer: {name}"] = round(made.facts[name], 4)
    unseen = "\n\n".join(reference_prose()[:60])  # training took the second half
    seen = observe(lm, *labelled(lm, unseen, 800), 128)
    detector = {name: value.float() for name, value in made.tensors.items() if name not in ("q", "k")}
    f1 = agreement(boundary_logits(detector, seen.features) > 0, seen.ends)
    outcome.figures["boundary F1 against the splitter, unseen text"] = round(f1, 3)
    outcome.figures["share of tokens that end a sentence"] = round(float(seen.ends.float().mean()), 3)
    inside, across = consistency(seen)
    outcome.figures[
        "teacher's best quarter of chunks in common: neighbours in a sentence / across sentences"
    ] = f"{inside:.3f} / {across:.3f}"
    found, floor = decode_figures(dense_rows(bench), outcome, [EACH, UNTRAINED, MEAN])
    prose = prose_figures(bench, [HALF, HALF_EACH, HALF_UNTRAINED, HALF_MEAN, WINDOW], outcome, windows=2)
    table = needle_figures(
        bench,
        ["full", HALF, HALF_UNTRAINED, HALF_MEAN, WINDOW],
        outcome,
        sides=(False,),
        haystacks=("prose",),
        samples=4,
    )["prose", False]
    same_as_full(bench, outcome, "chunkllm(budget=1.0)", "with the whole budget")
    outcome.must(
        "training lowered the divergence from the teacher", made.facts["kl_last"] < made.facts["kl_first"]
    )
    outcome.shows("boundaries: F1 above 0.9", f1 > 0.9)
    outcome.shows(
        "tokens of one sentence look at the same chunks more than neighbours across sentences",
        inside > across,
    )
    outcome.shows(
        "trained adapters keep more attention than untrained ones", found[EACH].mean > found[UNTRAINED].mean
    )
    outcome.shows("and more than mean keys", found[EACH].mean > found[MEAN].mean)
    outcome.shows("and more than window + sink", found[EACH].mean > floor["window"].mean)
    outcome.shows("and 0.1 more than random entries", found[EACH].mean > floor["random"].mean + 0.1)
    outcome.shows(
        f"choosing at boundaries costs less than a tenth more divergence than at every token ({prose[HALF].divergence:.4f} against {prose[HALF_EACH].divergence:.4f})",
        prose[HALF].divergence < 1.1 * prose[HALF_EACH].divergence + 1e-4,
    )
    shows_better(outcome, "needle at half of the cache", table, HALF, WINDOW)
    shows_better(outcome, "needle at half of the cache", table, HALF, HALF_UNTRAINED)
    return outcome


def consistency(seen: Seen) -> tuple[float, float]:
    """Overlap (Jaccard) of the quarter of finished chunks with most teacher attention, of neighbouring tokens in the same chunk and in different ones."""
    number = torch.arange(seen.teacher.shape[-1])
    same: list[float] = []
    other: list[float] = []
    for row in range(1, seen.teacher.shape[1]):
        finished = int(min(seen.labels[row], seen.labels[row - 1]))
        if finished < 9:
            continue
        rows = seen.teacher[:, row - 1 : row + 1].masked_fill((number >= finished) | (number == 0), -1.0)
        a, b = (
            torch.zeros(len(rows), len(number)).scatter_(1, rows[:, i].topk(finished // 4, -1).indices, 1.0)
            for i in (0, 1)
        )
        overlap = float(((a * b).sum(1) / (a + b).clamp(max=1).sum(1)).mean())
        (same if seen.labels[row] == seen.labels[row - 1] else other).append(overlap)
    return sum(same) / max(1, len(same)), sum(other) / max(1, len(other))
