"""Results of a run folder in two formats that others read: lm-evaluation-harness' JSON and kvpress's leaderboard folders.

lm-eval (0.4.13): one `results_<recipe>.json` per recipe (a results file describes one model) and one `samples_<task>_<recipe>.jsonl` per
task, with the same keys its own runs write. A task name carries length, haystack and mode, which lm-eval has no fields for.

kvpress (0.5.4, leaderboard): a folder `dataset__data_dir__model__press__ratio[__query_aware]` with predictions.csv (no contexts),
metrics.json and config.yaml. compression ratio = 1 - budget; RULER-type scores are percentages of string matches. Its tables know one
score per task, so lengths become data directories. A row without a score (a failed item) is left out and counted in the config.
"""

import csv
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from longspan.bench.item import Item
from longspan.bench.results import load
from longspan.errors import BadInput

Row = Mapping[str, Any]


ENDPOINT = (
    "endpoint:"  # the recipe of rows that a chat endpoint answered: its model, and no method of this engine
)


def _model(facts: Mapping[str, Any], recipe: str) -> Any:
    return recipe.removeprefix(ENDPOINT) if recipe.startswith(ENDPOINT) else facts.get("model")


def _press(row: Row) -> str:
    return "endpoint" if row["recipe"].startswith(ENDPOINT) else row.get("method") or row["recipe"]


def _engine(facts: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    if recipe.startswith(ENDPOINT):
        return {"model": "local-chat-completions", "model_args": f"model={_model(facts, recipe)}"}
    return {"model": "longspan", "model_args": f"pretrained={facts.get('model')},recipe={recipe}"}


def slug(text: str) -> str:
    """A file name part: everything but letters, digits, dot and minus becomes one underscore."""
    return re.sub(r"[^A-Za-z0-9.\-]+", "_", text).strip("_") or "none"


def task_name(row: Row) -> str:
    """Task with what else decides its difficulty: length, haystack, answer mode when it is not generation."""
    parts = [row["task"], row.get("length"), row.get("haystack")]
    mode = row.get("answer_mode")
    parts.append(mode if mode not in (None, "generate") else None)
    return "_".join(str(part) for part in parts if part is not None)


def _scored(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.get("score") is not None and not row.get("error")]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error (sample standard deviation), 0 for a single value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def lm_eval_results(facts: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """recipe -> results document. Aware and agnostic rows of one recipe are different recipes here, named with a suffix."""
    documents = {}
    for recipe, members in _by_recipe(rows).items():
        by_task: dict[str, list[Row]] = defaultdict(list)
        for row in members:
            by_task[task_name(row)].append(row)
        results, samples, configs = {}, {}, {}
        for name, group in sorted(by_task.items()):
            scored = _scored(group)
            samples[name] = {"original": len(group), "effective": len(scored)}
            configs[name] = {
                "task": name,
                "output_type": group[0].get("answer_mode") or "generate",
                "metadata": {"version": 1.0},
            }
            if scored:
                mean, error = _mean([row["score"] for row in scored])
                results[name] = {"alias": name, "score,none": mean, "score_stderr,none": error}
        documents[recipe] = {
            "results": results,
            "group_subtasks": {},
            "configs": configs,
            "versions": dict.fromkeys(results, 1.0),
            "n-shot": dict.fromkeys(results, 0),
            "higher_is_better": {name: {"score": True} for name in results},
            "n-samples": samples,
            "config": _engine(facts, recipe),
            "git_hash": None,
            "date": facts.get("created"),
            "transformers_version": facts.get("transformers"),
            "chat_template_sha": facts.get("template_hash"),
            "model_source": "longspan",
            "model_name": _model(facts, recipe),
            "model_sha": None if recipe.startswith(ENDPOINT) else facts.get("model_hash"),
            "task_hashes": {name: _task_hash(by_task[name]) for name in results},
        }
    return documents


def export_lm_eval(run: str | Path, folder: str | Path) -> list[Path]:
    """Write the run as lm-eval results and samples files; returns their paths."""
    facts, rows = _load(run)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    members = _by_recipe(rows)
    for recipe, document in lm_eval_results(facts, rows).items():
        path = folder / f"results_{slug(recipe)}.json"
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        made.append(path)
        by_task: dict[str, list[str]] = defaultdict(list)
        for number, row in enumerate(members[recipe]):
            by_task[task_name(row)].append(json.dumps(_sample(number, row), ensure_ascii=False))
        for name, lines in by_task.items():
            path = folder / f"samples_{slug(name)}_{slug(recipe)}.jsonl"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            made.append(path)
    return made


def _sample(number: int, row: Row) -> dict[str, Any]:
    gold = row.get("gold") or []
    return {
        "doc_id": number,
        "doc": {
            key: row.get(key) for key in ("cell", "task", "length", "haystack", "depth", "sample", "seed")
        },
        "target": gold[0] if gold else None,
        "arguments": {},
        "resps": [[row.get("answer")]],
        "filtered_resps": [row.get("answer")],
        "filter": "none",
        "metrics": ["score"],
        "score": row.get("score"),
        "error": row.get("error"),
        "doc_hash": _hash(row.get("cell")),
        "prompt_hash": _hash(row.get("cell")),
        "target_hash": _hash(gold),
    }


def export_kvpress(
    run: str | Path, folder: str | Path, items: Mapping[str, Item] | None = None, dataset: str = "ruler"
) -> list[Path]:
    """Write one leaderboard folder per recipe, length and question mode; returns them.

    `items` (cell -> item) fills the question and prefix columns, which result rows do not hold.
    """
    facts, rows = _load(run)
    groups: dict[tuple[str, str, float, bool], list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("answer_mode") not in (None, "generate"):
            continue
        ratio = round(1 - (1.0 if row.get("budget") is None else row["budget"]), 4)
        groups[(str(row.get("length")), _press(row), ratio, bool(row.get("aware")))].append(row)
    made = []
    for (length, method, ratio, aware), group in sorted(groups.items()):
        model = _model(facts, group[0]["recipe"])
        parts = [dataset, length, slug(str(model)), slug(method), f"{ratio:.2f}"]
        target = Path(folder) / "__".join([*parts, "query_aware"] if aware else parts)
        target.mkdir(parents=True, exist_ok=True)
        scored = _scored(group)
        _predictions(target / "predictions.csv", scored, items or {}, ratio)
        by_task: dict[str, list[float]] = defaultdict(list)
        for row in scored:
            by_task[row["task"]].append(row["score"])
        metrics = {
            name: {"string_match": round(100 * sum(v) / len(v), 2)} for name, v in sorted(by_task.items())
        }
        (target / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        config = {
            "dataset": dataset,
            "data_dir": length,
            "model": model,
            "press_name": method,
            "compression_ratio": ratio,
            "fraction": 1.0,
            "query_aware": aware,
            "seed": facts.get("seed"),
            "recipe": group[0]["recipe"],
            "engine": f"longspan {facts.get('longspan')}",
            "failed_items": len(group) - len(scored),
        }
        (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        made.append(target)
    return made


def _predictions(path: Path, rows: Sequence[Row], items: Mapping[str, Item], ratio: float) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "question",
                "answer_prefix",
                "answer",
                "task",
                "max_new_tokens",
                "predicted_answer",
                "compression_ratio",
            ]
        )
        for row in rows:
            item = items.get(row["cell"])
            gold = row.get("gold") or []
            writer.writerow(
                [
                    item.question if item else "",
                    item.answer_prefix if item else "",
                    gold[0] if len(gold) == 1 else json.dumps(gold, ensure_ascii=False),
                    row["task"],
                    item.max_new_tokens if item else row.get("new_tokens"),
                    row.get("answer"),
                    ratio,
                ]
            )


def _by_recipe(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        aware = row.get("aware")
        groups[
            row["recipe"] if aware is None else f"{row['recipe']} {'aware' if aware else 'agnostic'}"
        ].append(row)
    return groups


def _load(run: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    facts, rows = load(run)
    if not rows:
        raise BadInput(f"{run} holds no results to export")
    return facts, rows


def _task_hash(rows: Sequence[Row]) -> str:
    return _hash(sorted(str(row.get("cell")) for row in rows))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, default=str).encode()).hexdigest()
