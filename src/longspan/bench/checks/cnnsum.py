"""CNNSum's check: no Chinese model is small enough to run here, so what is exact: the metric and the two prompts."""

from longspan.bench.answerers import oracle
from longspan.bench.checks._items import must_load, rows
from longspan.bench.dataset import get_dataset
from longspan.bench.scorers import score
from longspan.bench.scorers_backends import PINS, backends
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

ROWS = [
    {
        "context": "老船长在清晨离开港口。海面起了大雾，他靠钟声找到灯塔。\n黄昏时，他把一封旧信交给守塔人。",
        "summary": "老船长在雾中循着钟声找到灯塔，把旧信交给守塔人。",
    },
    {
        "context": "女孩在山中学会了吹笛。冬天，她用笛声领着迷路的商队走出雪谷。",
        "summary": "女孩用笛声带领商队走出雪谷。",
    },
]


@check(
    "cnnsum",
    system="cnnsum",
    claim="summaries score by ROUGE-L over jieba words, and the instruction stands before or after the same bytes of text",
    file="src/longspan/bench/tasks/cnnsum.py",
)
def cnnsum(bench: Bench) -> Outcome:
    outcome = Outcome()
    with rows(
        {f"cnnsum_{level}.jsonl": ROWS for level in ("L_16k", "XL_32k", "XXL_64k", "XXXL_128k")}
    ) as folder:
        made = must_load(outcome, ["cnnsum_ie", "cnnsum_ib"], folder)
        caps = [
            get_dataset("cnnsum_ie").load(folder, level=level)[0].max_new_tokens
            for level in ("L_16k", "XL_32k", "XXL_64k", "XXXL_128k")
        ]
    after, before = made["cnnsum_ie"], made["cnnsum_ib"]
    outcome.must(
        "both prompts hold the text byte for byte",
        all(
            r["context"] in a.user_text and r["context"] in b.user_text
            for r, a, b in zip(ROWS, after, before, strict=True)
        ),
    )
    outcome.must(
        "the instruction stands after the text in one prompt and before it in the other",
        all(
            a.user_text.index(r["context"]) < b.user_text.index(r["context"])
            for r, a, b in zip(ROWS, after, before, strict=True)
        ),
    )
    outcome.must("a reply of full stops scores 0", all(score(i, "....") == 0 for i in after))
    outcome.must(
        "half a summary scores between silence and the oracle",
        all(0 < score(i, oracle(i)[: len(oracle(i)) // 2]) < 1 for i in after),
    )
    outcome.must("another item's summary scores below its own", score(after[0], oracle(after[1])) < 0.5)
    outcome.must(
        "replies may be 400 tokens long, 500 at the two longest levels", caps == [400, 400, 500, 500]
    )
    found = backends()
    outcome.figures |= {f"{name} (pinned {PINS[name]})": found[name] for name in ("jieba", "rouge")}
    outcome.must(
        "jieba and rouge are the pinned versions",
        all(found[name].startswith(PINS[name]) for name in ("jieba", "rouge")),
    )
    return outcome
