"""The HTML report and the console table: complete, self-contained, honest about modes, references and greyed groups."""

import re
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from longspan.bench.aggregate import aggregate
from longspan.bench.results import open_run
from longspan.errors import BadInput
from longspan.report.figures import Point, Series, panel, styles
from longspan.report.format import number, size, speed_up_bound, with_interval
from longspan.report.page import render, write_report
from longspan.report.slices import slices
from longspan.report.table import print_run
from synthetic_run import FACTS, synthetic_rows, write_synthetic_run

SHAPE = dict(lengths=(1024, 2048, 4096), depths=(0.0, 1.0), budgets=(0.5, 0.1), samples=2)


@pytest.fixture(scope="module")
def rows():
    return synthetic_rows(**SHAPE)


@pytest.fixture(scope="module")
def page(rows):
    return render(FACTS, rows)


def section(page: str, name: str) -> str:
    return re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)[1]


def test_every_section_is_there_in_order(page):
    names = re.findall(r'<section id="(\w+)">', page)
    assert names == [
        "summary",
        "quality",
        "lengths",
        "needles",
        "kept",
        "worst",
        "extension",
        "cells",
        "provenance",
    ]


def test_every_recipe_and_run_fact_is_named(page, rows):
    shown = section(page, "provenance")
    for recipe in {row["recipe"] for row in rows}:
        assert f"<code>{escape(recipe)}</code>" in shown
    for key in (
        "model_hash",
        "template_hash",
        "torch",
        "transformers",
        "longspan",
        "python",
        "machine",
        "command",
    ):
        assert escape(str(FACTS[key])) in shown
    assert "1000, 1001" in shown  # the items' seeds


def test_nothing_is_loaded_from_anywhere(page):
    assert not re.search(r"https?://", page)
    sources = re.findall(r'\b(?:src|href)="([^"]*)"|url\(([^)]*)\)', page)
    assert sources
    for source in (first or second for first, second in sources):
        assert source.startswith(("data:", "#"))
    assert "@import" not in page and "<iframe" not in page


def test_size_is_bounded(page):
    assert len(page.encode()) < 1_500_000


def test_html_is_well_formed(page):
    class Checker(HTMLParser):
        void = frozenset(("meta", "link", "img", "br", "wbr", "input"))

        def __init__(self):
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag, attrs):
            if tag not in self.void:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag, self.getpos()

    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_model_text_is_escaped(rows):
    hostile = "<script>alert(1)</script>"
    page = render(
        {**FACTS, "model": hostile}, [{**row, "recipe": row["recipe"] + hostile} for row in rows[:12]]
    )
    assert hostile not in page and escape(hostile) in page


def test_question_modes_have_tables_of_their_own(rows, page):
    cells = aggregate(rows)
    for _, aware, members in slices(cells):
        assert {cell.aware for cell in members} <= {aware, None}
        assert (
            len({cell.haystack for cell in members}) == 1 and len({cell.answer_mode for cell in members}) == 1
        )
        assert all(cell.role == "ceiling" for cell in members if cell.aware is None)
    for name in ("quality", "lengths", "worst"):
        titles = re.findall(r"<h3>([^<]*)", section(page, name))
        assert any("agnostic" in title for title in titles) and any("aware" in title for title in titles)
    for block in re.findall(r"<details.*?</details>", section(page, "cells"), re.S):
        assert ("question-agnostic" in block) + ("question-aware" in block) + ("no question" in block) == 1


def test_greyed_groups_are_marked_with_the_reason(page):
    blocks = re.findall(r'<details class="(\w*)"><summary>(.*?)</summary>', section(page, "cells"))
    greyed = [title for flag, title in blocks if flag == "greyed"]
    assert greyed and all(
        title.startswith("vt ·") and "· 4K" in title and "below 0.2" in title for title in greyed
    )
    assert not any("below 0.2" in title for flag, title in blocks if flag != "greyed")
    assert "<tr class=greyed><th>4K" in section(page, "needles")


def test_references_are_labelled(page):
    quality = section(page, "quality")
    for role in ("ceiling", "oracle", "floor"):
        assert f'<tr class="{role}">' in quality and f'<small class="role">{role}</small>' in quality


def test_the_bound_is_beside_the_speed_up_only_when_weights_are_known(rows, page):
    assert re.search(r"×\s*<small>of [\d.]+×</small>", section(page, "quality"))
    few = [row for row in rows if row["task"] == "niah_single_1" and row["length"] == 1024]
    without = render({key: value for key, value in FACTS.items() if key != "weight_bytes"}, few)
    assert "<small>of " not in section(without, "quality")
    assert speed_up_bound(100, 100, 50) == pytest.approx(200 / 150)


def test_kept_maps_mark_the_evidence(page):
    kept = section(page, "kept")
    assert 'id="kept-item"' in kept and 'id="kept-recipe"' in kept
    figures = re.findall(r'<figure class="keptmap.*?</figure>', kept, re.S)
    assert figures and all('<i style="left:' in figure and "of the evidence" in figure for figure in figures)


def test_the_trained_window_is_marked_where_it_is_in_reach(page):
    marks = re.findall(r"<text[^>]*>trained window</text>", section(page, "extension"))
    assert len(marks) == 2  # 3072: inside both panels of 4K, past the others


def test_the_extension_table_pairs_texts_and_splits_at_the_window(rows):
    facts = {**FACTS, "trained_window": 1024}
    shown = section(render(facts, rows), "extension")
    head = re.findall(r"<thead><tr>(.*?)</tr>", shown)[-1]
    assert re.findall(r"<th>(.*?)</th>", head) == ["Recipe", "inside the window", "1K to 2K", "2K to 4K"]
    by_recipe = {
        row["recipe"]: [
            r["nll_by_position"]
            for r in rows
            if r.get("nll_by_position") and r["length"] == 4096 and r["recipe"] == row["recipe"]
        ]
        for row in rows
        if row.get("nll_by_position")
    }
    random, full = (
        np.array(next(curve for name, curve in by_recipe.items() if name.startswith(kind)))
        for kind in ("random", "full")
    )
    inside = full[0, :, 0] < 1024
    change = (random[:, inside, 1] - full[:, inside, 1]).mean()
    line = [one for one in re.findall(r"<tr.*?</tr>", shown) if "random" in one][-1]
    assert f">{number(random[:, inside, 1].mean())} <small>{number(change, signed=True)} [" in line
    assert "difference to full" in shown


def test_rows_without_a_full_cache_or_a_window_are_still_drawn():
    course = [[at, 2.0 + at / 100] for at in range(1, 100, 16)]
    rows = [
        {
            "cell": name, "recipe": name, "method": name, "role": "method", "task": "perplexity", "length": length, "sample": 0,
            "answer_mode": "perplexity", "nll_by_position": course, "gold_logprob": -1.0, "gold_tokens": 1,
        }
        for name, length in (("yarn", 1024), ("pi", 512))
    ]  # fmt: skip
    shown = section(render({}, rows), "extension")
    assert "difference" not in shown.split("</p>", 1)[1] and "all positions" in shown
    assert shown.index("perplexity · 512") < shown.index("perplexity · 1K")


def test_numbers_of_the_page_are_the_cells(rows, page):
    cell = next(cell for cell in aggregate(rows) if cell.recipe.startswith("keydiff") and cell.aware is False)
    assert f"{number(cell.score.mean)} <small>" in section(page, "cells")


def test_a_small_run_leaves_sections_out():
    small = synthetic_rows(
        tasks=("niah_single_1",), lengths=(1024,), depths=(0.5,), budgets=(0.5,), samples=1
    )
    page = render(FACTS, [row for row in small if row["answer_mode"] == "generate"])
    names = re.findall(r'<section id="(\w+)">', page)
    assert "needles" not in names and "lengths" not in names and "extension" not in names
    assert "quality" in names and "cells" in names


def test_rows_with_the_bare_minimum_are_drawn():
    rows = [
        {
            "cell": f"{recipe}{n}",
            "recipe": recipe,
            "role": role,
            "task": "qa",
            "sample": n,
            "score": score,
            "aware": aware,
        }
        for recipe, role, score, aware in (
            ("full", "ceiling", 1.0, None),
            ("kivi(bits=4)", "method", 0.5, None),
        )
        for n in range(2)
    ]
    page = render({"schema": 1}, rows)
    assert "kivi(bits=4)" in page and "no question" in section(page, "cells")
    assert "<code>kivi(bits=4)</code>" in section(page, "summary")


def test_failed_cells_are_listed(rows):
    failed = {**rows[5], "error": "out of memory at 2048 entries", "score": None, "gold_logprob": None}
    page = render(FACTS, [*rows[:5], failed])
    assert "out of memory at 2048 entries" in section(page, "failed")


def test_an_empty_run_is_refused(tmp_path):
    open_run(tmp_path, FACTS).close()
    with pytest.raises(BadInput, match="no results yet"):
        write_report(tmp_path)


def test_report_file_is_deterministic(tmp_path):
    folder = write_synthetic_run(
        tmp_path / "run", lengths=(1024,), depths=(0.0, 1.0), budgets=(0.5,), samples=1
    )
    first = write_report(folder).read_bytes()
    assert write_report(folder, tmp_path / "sub" / "again.html").read_bytes() == first


def test_console_table_fits_a_narrow_terminal(tmp_path):
    folder = write_synthetic_run(tmp_path, lengths=(4096,), depths=(0.0, 1.0), budgets=(0.5,), samples=1)
    for width in (80, 140):
        console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
        print_run(folder, console)
        text = console.export_text()
        assert "…" not in text and max(len(line) for line in text.splitlines()) <= width
        assert "tova(budget=0.5)" in text and "Question-aware" in text and "Question-agnostic" in text
        assert "vt · prose · 4K" in text  # greyed groups are named


def test_panels_use_page_colours_and_carry_tips():
    look = styles([("full", "ceiling"), ("a", "method")])
    from longspan.bench.statistics import Interval

    points = [Point(1.0, Interval(0.2, 0.1, 0.3, 4), "a & b"), Point(2.0, Interval(0.4, None, None, 1), "c")]
    svg = panel([Series("a", look["a"], points)], x_label="x", y_label="y", name="one")
    assert "<title>a &amp; b</title>" in svg and "var(--c0)" in svg and "#0202" not in svg
    assert "DejaVu" not in svg and "<style" not in svg and unescape(svg).count("<svg") == 1


def test_number_formats():
    assert number(-0.001, signed=True) == "0.00" and number(-1.234) == "−1.23" and number(None) == "–"
    assert number(float("nan")) == "–" and size(1536) == "1.50 KiB" and size(3 * 2**30) == "3.00 GiB"
    from longspan.bench.statistics import Interval

    assert with_interval(Interval(0.5, None, None, 1)) == "0.50"
    assert with_interval(Interval(0.5, 0.25, 0.75, 9)) == "0.50 [0.25, 0.75]"
    assert np.isfinite(speed_up_bound(1, 1, 0))
