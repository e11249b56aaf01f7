"""LongBench's check: metrics by hand, truncation to the token, the 21 prompts, and code whose file is in front of the model."""

import inspect
import json
import shlex
import textwrap
from dataclasses import replace

from longspan.bench.checks._items import must_load, rows
from longspan.bench.checks._readings import nats, readings, shows_help
from longspan.bench.data import data_root
from longspan.bench.dataset import get_dataset
from longspan.bench.lengths import count_tokens
from longspan.bench.scorers import f1_tokens
from longspan.bench.scorers_text import class_accuracy, code_similarity, number_share, paragraph_share
from longspan.bench.tasks.longbench import SETS, averages
from longspan.bench.testbed import Bench
from longspan.bench.truncation import Truncation
from longspan.bench.verify import Outcome, check

LINES = 60


def code_rows(n: int) -> list[dict]:
    """Files of Python's own library up to a line inside them, and that line."""
    made = []
    for number in range(n):
        source = inspect.getsource((shlex, textwrap)[number % 2]).split("\n")
        at = next(
            i
            for i in range(LINES + 25 * number, len(source))
            if len(source[i].strip()) > 25 and "#" not in source[i] and "`" not in source[i]
        )
        made.append(
            {
                "input": "",
                "context": "\n".join(source[at - LINES : at]) + "\n",
                "answers": [source[at].strip()],
                "all_classes": None,
                "length": LINES,
            }
        )
    return made


def schema_rows() -> dict[str, list[dict]]:
    """One row a set in the published schema."""
    made = {}
    for name, facts in SETS.items():
        gold = (
            "Paragraph 7"
            if "retrieval_en" in name
            else "段落7"
            if "retrieval" in name
            else "3"
            if name == "passage_count"
            else "the keeper"
        )
        gold = (
            "x = keeper(1)" if facts[0] == "code" else "location" if facts[2] == "longbench_class" else gold
        )
        classes = ["location", "person"] if facts[2] == "longbench_class" else None
        context = "Paragraph 7: the keeper lit the lamp." if "zh" not in name else "段落7：守塔人点亮了灯。"
        made[f"{name}.jsonl"] = [
            {
                "input": "Who lit the lamp?",
                "context": context,
                "answers": [gold],
                "all_classes": classes,
                "length": 8,
                "_id": name,
            }
        ]
    return made


@check(
    "longbench",
    system="longbench",
    claim="21 sets scored as published; the file above a line of code makes the line likelier, the more of it the better",
    file="src/longspan/bench/tasks/longbench.py",
)
def longbench(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    outcome.must(
        "F1 of 'the cat sat' and 'cat sat down' without the article is 0.8",
        abs(f1_tokens("the cat sat", "cat sat down") - 0.8) < 1e-9,
    )
    outcome.must(
        "two numbers of which one is right score 0.5",
        paragraph_share("3 or 7", "Paragraph 7") == 0.5 and number_share("3, 4", "4") == 0.5,
    )
    outcome.must(
        "a class named beside another scores a half",
        class_accuracy("location or person", "location", ["location", "person"]) == 0.5,
    )
    outcome.must(
        "code is compared by its first line of code", code_similarity("# note\nx = 1\ny = 2", "x = 1") == 1
    )
    with rows(schema_rows()) as folder:
        must_load(outcome, [f"longbench_{name}" for name in SETS], folder, what=" of the published schema")
    means = averages(dict.fromkeys(SETS, 50.0))
    outcome.must(
        "both published averages are given", means["overall"] == means["sixteen"] == 50.0 and len(means) == 8
    )
    with rows({"lcc.jsonl": code_rows(8)}) as folder:
        items = get_dataset("longbench_lcc").load(folder)
    whole = Truncation("middle").apply(items[0], 10_000, tokenizer)
    outcome.must("a prompt that fits passes byte for byte", whole.user_text == items[0].user_text)
    cut = Truncation("middle").apply(items[0], 200, tokenizer)
    head, tail = cut.metadata["cut_characters"]
    text = items[0].user_text
    outcome.must(
        "a longer one keeps its first and last half to the token",
        [count_tokens(tokenizer, t) for t in (text[:head], text[tail:])] == [100, 100],
    )
    if data_root() is not None:
        _must_published(outcome)
    else:
        outcome.not_run(
            "the published prompts and reply lengths",
            "set LONGSPAN_DATA to the folder that holds longbench/dataset2prompt.json",
        )
    own = shows_help(outcome, bench, items, "next line of code")
    few = [_last(item, 5) for item in items]
    near = readings(bench, few, rank=False)["full"]
    outcome.figures["next line of code, nats a token: with the last 5 lines only"] = round(nats(near), 3)
    outcome.shows(
        f"60 lines above make it likelier than 5 ({nats(own):.2f} against {nats(near):.2f})",
        nats(own) < nats(near),
    )
    return outcome


def _must_published(outcome: Outcome) -> None:
    """The benchmark's own prompt file and reply lengths, where they lie in the data folder."""
    root = data_root()
    folder = root / "longbench" if root else None
    if folder is None or not (folder / "dataset2prompt.json").exists():
        outcome.not_run(
            "the published prompts and reply lengths",
            "longbench/dataset2prompt.json is not in the data folder",
        )
        return
    prompts, lengths = (
        json.loads((folder / f"dataset2{what}.json").read_text(encoding="utf-8"))
        for what in ("prompt", "maxlen")
    )
    outcome.must("the published prompt file has the 21 sets", set(prompts) == set(SETS))
    outcome.must(
        "reply lengths are the published ones", all(lengths[name] == facts[3] for name, facts in SETS.items())
    )
    source = schema_rows()
    published = (folder / "dataset2prompt.json").read_text(encoding="utf-8")
    with rows(
        {
            "dataset2prompt.json": published,
            **{f"{n}.jsonl": source[f"{n}.jsonl"] for n in ("qasper", "trec", "lcc")},
        }
    ) as place:
        for name in ("qasper", "trec", "lcc"):
            (item,) = get_dataset(f"longbench_{name}").load(place)
            row = source[f"{name}.jsonl"][0]
            outcome.must(
                f"{name}: the prompt is the published one to the letter",
                item.user_text == prompts[name].format(context=row["context"], input=row["input"]),
            )


def _last(item, lines: int):
    """The item with the last lines of its context only."""
    return replace(
        item, context="".join(item.context.splitlines(keepends=True)[-lines:]), evidence=(), depth=None
    )
