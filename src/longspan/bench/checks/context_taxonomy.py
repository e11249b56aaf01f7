"""The check of scope and dispersion: classes of known tasks, what filler changes and what not, and which items a cache policy hurts."""

from dataclasses import replace

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import kept, nats, readings
from longspan.bench.item import Item
from longspan.bench.task import all_tasks, get_task
from longspan.bench.taxonomy import Measured, measure
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

POLICY = "snapkv(budget=0.25)"


def padded(item: Item, times: int) -> Item:
    """The item with unrelated filler after its context."""
    return replace(item, context=item.context + "\n" + "The path is quiet. The river is wide. " * times)


def measured(item: Item) -> Measured:
    found = measure(item)
    assert found is not None, f"{item.task} has evidence"
    return found


@check(
    "context-taxonomy",
    system="context-taxonomy",
    claim="scope and dispersion, not length, say what an item asks of a cache: more places to keep and words unlike the question's cost more",
    file="src/longspan/bench/taxonomy.py",
)
def context_taxonomy(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    needle = get_task("niah_single_1").make(2, 8192, tokenizer, SEED)
    chain = [i for i in get_task("atc").make(4, 2048, tokenizer, SEED) if i.metadata["question"] != "kth"]
    top = get_task("holobench_topk").make(2, 2048, tokenizer, SEED, info_share=1.0)
    outcome.must(
        "a needle at 8k is S0, D0 and found by retrieval alone",
        all((m.scope, m.diffusion, m.retrieval_only) == ("S0", "D0", True) for m in map(measured, needle)),
    )
    outcome.must(
        "an ancestral trace needs most of its text (S3)", all(measured(i).scope == "S3" for i in chain)
    )
    outcome.must("ranking a whole list is S3", all(measured(i).scope == "S3" for i in top))
    outcome.figures["scope of an ancestral trace"] = round(mean([measured(i).scope_ratio for i in chain]), 3)
    items = [*needle, *chain, *top, *get_task("bio_multihop").make(2, 1024, tokenizer, SEED)]
    before, after = [measured(i) for i in items], [measured(padded(i, 200)) for i in items]
    outcome.must(
        "filler lowers the scope's share",
        all(a.scope_ratio < b.scope_ratio for a, b in zip(after, before, strict=True)),
    )
    outcome.must(
        "filler leaves what must be read and the hops as they were",
        all(
            (a.scope_characters, a.hops) == (b.scope_characters, b.hops)
            for a, b in zip(after, before, strict=True)
        ),
    )
    must_generate(outcome, tokenizer, ["niah_single_1", "atc", "bio_multihop"])
    cells = {(t.scope, t.diffusion) for t in all_tasks().values()}
    outcome.figures["cells of scope and diffusion that the generators fill"] = f"{len(cells)} of 16"
    outcome.must(
        "generators fill every scope and every diffusion",
        {s for s, _ in cells} == {"S0", "S1", "S2", "S3"}
        and {d for _, d in cells} == {"D0", "D1", "D2", "D3"},
    )
    held, lost = {}, {}
    for name, task, knobs in (
        ("one fact (S0)", "needlebench_single", {"haystack": "prose"}),
        ("five facts (S1)", "needlebench_multi", {"haystack": "prose", "needles": 5}),
        ("as told (D1)", "bio_standard", {}),
        ("paraphrased (D2)", "bio_paraphrase", {}),
    ):
        made = get_task(task).make(6, 480, tokenizer, SEED, reserve=False, **knobs)
        table = readings(bench, made, ("full", POLICY), aware=True, rank=False)
        held[name] = kept(table[POLICY])
        lost[name] = nats(table[POLICY]) - nats(table["full"])
        outcome.figures[f"{name}: evidence kept by {POLICY}; gold lost, nats a token"] = (
            f"{held[name]:.2f}; {lost[name]:+.2f}"
        )
    outcome.shows(
        f"five facts keep less of their evidence than one ({held['five facts (S1)']:.2f}, {held['one fact (S0)']:.2f})",
        held["five facts (S1)"] < held["one fact (S0)"],
    )
    outcome.shows(
        f"words unlike the question's keep less ({held['paraphrased (D2)']:.2f}, {held['as told (D1)']:.2f})",
        held["paraphrased (D2)"] < held["as told (D1)"],
    )
    outcome.shows("compressing costs likelihood in every class", all(value > 0 for value in lost.values()))
    return outcome
