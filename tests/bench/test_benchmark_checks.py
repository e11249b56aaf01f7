"""What the checks of benchmarks share: properties that can fail, parts without data that are named, and puzzles with one solution."""

import random
from dataclasses import replace

import pytest

from longspan.bench import task as tasks
from longspan.bench.checks import _items
from longspan.bench.checks._items import must_generate, must_load, refused, rows
from longspan.bench.reproduce import Pieces, digest, elsewhere
from longspan.bench.scorers import score
from longspan.bench.systems import Evidence, load_evidence, save_evidence, statuses, systems
from longspan.bench.task import get_task
from longspan.bench.tasks.detective_puzzle import consistent, draw, holds, tell
from longspan.bench.verify import Outcome, checks
from longspan.errors import BadInput


def failed(outcome: Outcome) -> list[str]:
    return [sentence for sentence, holds in outcome.properties if not holds]


def test_a_part_that_could_not_run_is_named_and_never_claimed():
    outcome = Outcome()
    outcome.must("one is one", True)
    assert outcome.verdict == "works"
    outcome.not_run("the stored replies", "set LONGSPAN_DATA")
    assert outcome.verdict == "incomplete"
    outcome.shows("an effect", False)
    assert outcome.verdict == "no effect"
    outcome.must("one is two", False)
    assert outcome.verdict == "fails"


def test_every_benchmark_that_is_built_has_a_check_of_its_own_system():
    slugs = {system.slug for system in systems()}
    found = {check.system for check in checks().values() if check.system}
    assert found <= slugs
    built = """nocha detectiveqa ada-leval liconbench helmet mir-bench longbiobench longins haystackcraft cnnsum scbench lv-eval loogle l-eval
    longbench needle-threading longbench-pro needlebench m4le longhealth hibench l-citeeval holobench context-taxonomy"""
    assert set(built.split()) <= found


def test_an_incomplete_system_is_partial(tmp_path):
    save_evidence(Evidence("nocha", "nocha", "c", {}, "incomplete", "d", "m", "v"), tmp_path)
    (entry,) = [e for e in statuses(load_evidence(tmp_path)) if e["slug"] == "nocha"]
    assert entry["status"] == "partial"


def test_sound_generators_pass_and_unsound_ones_do_not(monkeypatch):
    monkeypatch.setattr(_items, "elsewhere", digest)
    outcome = Outcome()
    made = must_generate(outcome, Pieces(), ["bio_standard", "hibench_root"], tokens=768, n=4)
    assert failed(outcome) == [] and {len(items) for items in made.values()} == {4}
    good = get_task("bio_standard")

    def broken(maker):
        item = good.generate(maker)
        (a, b) = item.evidence[0]
        return replace(
            item, evidence=((a + 1, b + 1),), metadata={**item.metadata, "gold_text": "?", "tokens": 1}
        )

    monkeypatch.setitem(tasks._registry(), "bio_standard", replace(good, generate=broken))
    outcome = Outcome()
    must_generate(outcome, Pieces(), ["bio_standard"], tokens=768, n=2)
    wrong = failed(outcome)
    assert (
        len(wrong) == 4
        and any("span" in s for s in wrong)
        and any("long" in s for s in wrong)
        and any("oracle" in s for s in wrong)
    )


def test_another_process_makes_the_same_items():
    plans = [("icl_nonce", {"classes": 4})]
    assert elsewhere(plans, 512, 1) == digest(plans, 512, 1) != digest(plans, 640, 1)


def test_missing_data_is_not_run(monkeypatch):
    monkeypatch.delenv("LONGSPAN_DATA", raising=False)
    outcome = Outcome()
    assert (
        must_generate(outcome, Pieces(), ["icl_fewnerd"]) == {} and must_load(outcome, ["nocha_simple"]) == {}
    )
    assert [part for part, _ in outcome.left_out] == ["items of icl_fewnerd", "rows of nocha_simple"]
    assert "LONGSPAN_DATA" in outcome.left_out[1][1] and outcome.properties == []


def test_rows_in_a_schema_are_loaded_and_judged():
    row = {"input": "Who?", "context": "Anna.", "answers": ["Anna"], "all_classes": None}
    with rows({"qasper.jsonl": [row]}) as folder:
        outcome = Outcome()
        made = must_load(outcome, ["longbench_qasper"], folder)
    assert failed(outcome) == [] and made["longbench_qasper"][0].answers == ("Anna",)
    assert refused(lambda: get_task("no such task")) and not refused(lambda: get_task("vt"))


@pytest.mark.parametrize("suspects", [3, 4])
def test_puzzles_have_one_solution_and_no_spare_clue(suspects):
    for seed in range(4):
        world, culprit, facts = draw(random.Random(seed), suspects)
        assert consistent(world, facts) == {culprit}
        for fact in facts:
            assert len(consistent(world, [other for other in facts if other != fact])) > 1
        assert len({tell(fact, ["Ann", "Ben", "Cid", "Dot"]) for fact in facts}) == len(facts)
    assert holds(("one_of", 0, 12), [2, 0, 1], [0, 1, 2]) and not holds(
        ("together", 0, 0), [2, 0, 1], [0, 1, 2]
    )


def test_puzzle_items_hide_every_clue_once_and_name_the_culprit():
    (item,) = get_task("detective_puzzle").make(1, 700, Pieces(), 3, haystack="filler")
    assert len(item.evidence) == len(item.metadata["facts"]) and set(item.candidates) > set(item.answers)
    assert score(item, item.gold_text) == 1 and item.answers[0] not in item.question
    with pytest.raises(BadInput, match="3 to 5"):
        get_task("detective_puzzle").make(1, 700, Pieces(), suspects=9)
