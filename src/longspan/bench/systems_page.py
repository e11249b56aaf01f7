"""docs/systems.md: the systems in scope in one short table, and below it what every check measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longspan.bench.systems import EVIDENCE, Evidence, load_evidence, statuses

KINDS = {"must": "exact properties", "shows": "expected effects", "not run": "not run"}


def write_docs(path: str | Path = Path("docs/systems.md"), folder: str | Path = EVIDENCE) -> Path:
    """Regenerate docs/systems.md from the evidence folder."""
    path, evidence = Path(path), load_evidence(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(statuses(evidence), evidence), encoding="utf-8")
    return path


def page(entries: Sequence[Mapping[str, Any]], evidence: Sequence[Evidence]) -> str:
    """entries: `statuses`; evidence: what they were made from."""
    counts = {
        status: sum(entry["status"] == status for entry in entries) for status in ("works", "partial", "none")
    }
    by_name = {item.name: item for item in evidence}
    lines = [
        "# Systems",
        "",
        f"The {len(entries)} works in scope: {counts['works']} work, {counts['partial']} partly, {counts['none']} have no check yet. "
        "Written by `longspan verify --all` from the files in `evidence/`. A system works only where its check passed, with its "
        "baselines measured in the same run: every exact property held and every expected effect showed. `no effect` means that the "
        "properties held and an effect that the paper reports did not show on the small model here; the numbers are below.",
        "",
        "| # | system | paper | room | file | figures | status | date | machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        failed = ", ".join(
            f"{name}: {verdict}" for name, verdict in entry["verdicts"].items() if verdict != "works"
        )
        figures = ", ".join(f"[{summary(by_name[name].figures)}](#{name})" for name in entry["check"])
        cells = [entry["id"], f"`{entry['slug']}`", entry["title"], entry["room"], entry["file"], figures]
        cells += [entry["status"] + (f" ({failed})" if failed else ""), entry["date"], entry["machine"]]
        lines.append(_row(cells))
    lines += ["", "# Checks", ""]
    for item in sorted(evidence, key=lambda item: item.name):
        lines += _section(item)
    return "\n".join(lines) + "\n"


def summary(figures: Mapping[str, Any]) -> str:
    """How many effects showed and properties held, such as "3 of 4 effects, 5 properties"; the figure itself where there is only one."""
    told = {
        kind: [value for name, value in figures.items() if name.startswith(f"{kind}: ")] for kind in KINDS
    }
    parts = []
    if told["shows"]:
        parts.append(f"{sum(map(bool, told['shows']))} of {len(told['shows'])} effects")
    if told["must"]:
        held = sum(map(bool, told["must"]))
        parts.append(
            f"{held} properties" if held == len(told["must"]) else f"{held} of {len(told['must'])} properties"
        )
    if told["not run"]:
        parts.append(f"{len(told['not run'])} parts not run")
    if not parts:
        parts = [f"{name} {show(value)}" for name, value in list(figures.items())[:2]]
    return ", ".join(parts)


def show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _section(item: Evidence) -> list[str]:
    facts = ", ".join(part for part in (item.verdict, item.date, item.machine, f"`{item.command}`") if part)
    lines = [
        f'<a id="{item.name}"></a>',
        "",
        f"## {item.name}",
        "",
        f"{item.claim[:1].upper()}{item.claim[1:]}.".replace("..", "."),
        "",
        facts,
        "",
    ]
    for kind, title in KINDS.items():
        told = {
            name.removeprefix(f"{kind}: "): value
            for name, value in item.figures.items()
            if name.startswith(f"{kind}: ")
        }
        if told:
            lines += [f"{title.capitalize()}:", ""]
            lines += [
                f"- {_answer(value)}: {name}" if isinstance(value, bool) else f"- {name}: {value}"
                for name, value in told.items()
            ]
            lines.append("")
    rest = {
        n: v
        for n, v in item.figures.items()
        if not n.startswith(tuple(f"{kind}: " for kind in KINDS)) and n != "seconds"
    }
    if rest:
        lines += [
            "| measured | |",
            "|---|---|",
            *(_row([name, show(value)]) for name, value in rest.items()),
            "",
        ]
    return lines


def _answer(value: bool) -> str:
    return "yes" if value else "**no**"


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
