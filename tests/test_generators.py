"""Properties of single generators that the shared task tests do not see."""

import itertools
import json
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.bench import haystacks, taxonomy, trees, words
from longspan.bench.dataset import get_dataset
from longspan.bench.item import Item
from longspan.bench.lengths import Budget, fit
from longspan.bench.scorers import score
from longspan.bench.task import get_task
from longspan.bench.tasks import (
    babilong,
    holobench,
    joint_recall,
    needle_threading,
    ruler_qa,
)
from longspan.errors import BadInput
from test_tasks import TOKENIZER

BLANK = Item(
    id="x", task="t", context="", question="", answer_prefix="", answers=(), candidates=None, evidence=(), max_new_tokens=0,
    stop=(), seed=0, scorer="f1",
)  # fmt: skip


def make(name: str, n: int = 2, tokens: int = 1024, seed: int = 1, **knobs):
    return get_task(name).make(n, tokens, TOKENIZER, seed, **knobs)


# -- haystacks ------------------------------------------------------------------------------------------------------
def test_sentences_cover_the_text():
    text = 'Mr. Bell left. "Why?" she asked. He (i.e. Bell) was\n\nNew paragraph here! 3.5 is a number. End'
    spans = haystacks.split_sentences(text)
    assert "".join(text[a:b] for a, b in spans) == text
    assert next(text[a:b].strip() for a, b in spans) == "Mr. Bell left."
    assert any(text[a:b].strip() == "3.5 is a number." for a, b in spans)


def test_weave_keeps_units_and_spans():
    units = ["One. ", "Two. ", "Three. "]
    text, spans = haystacks.weave(units, [(3, "END"), (0, "START"), (1, "MID")], " ")
    assert text == "START One. MID Two. Three. END"
    assert [text[a:b] for a, b in spans] == ["END", "START", "MID"]


def test_python_reference_is_long_running_text():
    text = haystacks.python_reference()
    assert len(text) > 150_000
    assert not re.search(r">>>|::=|^\s*\*{4,}", text, re.MULTILINE)


def test_haystack_from_a_file(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("A first sentence stands here. A second one follows it. " * 40)
    item = make("niah_single_2", 1, haystack=str(path))[0]
    assert item.haystack == path.name and "A second one follows it." in item.context
    empty = tmp_path / "empty.txt"
    empty.write_text(" ")
    with pytest.raises(BadInput, match="empty"):
        make("niah_single_2", haystack=str(empty))
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        make("niah_single_2", haystack=str(binary))


def test_words_are_distinct_and_names_separate():
    assert len(set(words.vocabulary(5000))) == 5000
    names = words.separate_names(random.Random(1), 400)
    folded = [n.lower() for n in names]
    assert not any(a != b and a in b for a, b in itertools.product(folded, folded))


# -- needle threading -------------------------------------------------------------------------------------------------
def test_published_haystack_regenerates():
    text, _ = needle_threading.render(list(needle_threading.published_pairs(25)))
    assert len(text) == 2000, "the released haystack has 25 pairs in 2,000 characters"
    assert json.loads(text) == dict(needle_threading.published_pairs(25))
    assert needle_threading.published_pairs(40)[:25] == needle_threading.published_pairs(25)


@pytest.mark.parametrize("direction", ["forward", "backward", "random"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_threads_walk_exactly_their_length(direction, steps):
    for item in make("threading_forward", 3, 2048, direction=direction, length=steps, alphabet="short"):
        pairs = json.loads(item.context.split("\n", 1)[1])
        at = re.findall(r'key "(\w+)"', item.question)[0]
        for step in range(steps):
            assert at in pairs, f"the thread ends after {step} steps"
            at = pairs[at]
        assert at == item.answers[0] and at not in pairs
        starts = [a for a, _ in item.evidence]
        if direction != "random":
            assert starts == sorted(starts, reverse=direction == "backward")


def test_conditional_needles_are_all_marked_keys():
    for item in make("threading_conditional", 3, 2048):
        pairs = json.loads(item.context.split("\n", 1)[1])
        assert tuple(v for k, v in pairs.items() if "*" in k) == item.answers


def test_branched_thread_has_one_long_path():
    for item in make("threading_branched", 3, 2048, length=3, branches=2, alphabet="short"):
        pairs = re.findall(r'"(\w+)": "(\w+)"', item.context)
        at, ends = {re.findall(r'key "(\w+)"', item.question)[0]}, set()
        for _ in range(3):
            ends = {v for k, v in pairs if k in at}
            at = ends
        assert item.answers[0] in ends and len(ends) == 1


# -- joint recall -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("contexts", "keys"), [(3, 4), (5, 5), (16, 16)])
def test_joint_recall_sequence(contexts, keys):
    ids, marks = joint_recall.sequence(random.Random(3), contexts, keys)
    assert len(ids) == 2 * contexts * (2 * keys + 1) + 2 and len(marks) == contexts * keys
    table, context, cut = {}, None, ids.index(joint_recall.SEP)
    for i, token in enumerate(ids[:cut]):
        if token >= joint_recall.CONTEXT_0:
            context = token
        elif token >= joint_recall.KEY_0:
            table[context, token] = ids[i + 1]
    for i in range(cut + 1, len(ids)):
        if ids[i] >= joint_recall.CONTEXT_0:
            context = ids[i]
        elif i in marks:
            assert table[context, ids[i]] == ids[i + 1]
    assert max(ids) < joint_recall.VOCABULARY


def test_context_blind_reader_stays_at_its_bound():
    rates = [joint_recall.context_blind(*joint_recall.sequence(random.Random(s), 8, 8)) for s in range(60)]
    bound = 1 / 8 + (1 - 1 / 8) / 16
    assert abs(sum(rates) / 60 - bound) < 0.03


# -- tables -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", holobench.KINDS)
def test_table_gold_does_not_depend_on_placement(kind):
    golds = {
        make(f"holobench_{kind}", 1, 1024, strategy=s)[0].answers
        for s in ("begin", "end", "middle", "bimodal", "uniform")
    }
    assert len(golds) == 1


def test_table_gold_by_an_independent_reading():
    for item in make("holobench_sum", 4, 2048):
        trade = re.search(r"do the (\w+)s earn", item.question).group(1)
        wages = re.findall(rf"is a {trade} in \w+ and earns (\d+)", item.context)
        assert item.answers == (str(sum(map(int, wages))),) and len(wages) == len(item.evidence)


def test_more_information_more_evidence():
    spans = [len(make("holobench_count", 1, 4096, info_share=s)[0].evidence) for s in (0.1, 0.4, 0.9)]
    assert spans == sorted(spans) and spans[0] < spans[-1]


# -- chains and trees -------------------------------------------------------------------------------------------------
def _walk(item, generations: int, start: str) -> str:
    parents = {}
    for text in re.split(r"(?<=\.) ", item.context.split("\n\n", 1)[1]):
        names = re.findall(
            r"[A-Z]\w+ [A-Z]\w+",
            text.replace("Everyone in", "everyone in").replace("The ", "the ").replace("It is", "it is"),
        )
        child_first = any(s in text for s in (" calls ", " brought up ", "knows that"))
        a, b = (names[1], names[0]) if child_first else (names[0], names[1])
        if text.startswith("The "):
            a, b = names[1], names[0]
        parents[b] = (a, 2 if "grand" in text else 1)
    while generations:
        start, step = parents[start]
        generations -= step
    return start


def test_ancestral_trace_by_walking():
    for item in make("atc", 6, 1024, question="kth"):
        start, up = re.search(r"ancestor of (.+?) exactly (\d+) generations", item.question).groups()
        assert _walk(item, int(up), start) == item.answers[0]
    for kind in ("eldest", "ancestor", "descendant", "distance"):
        assert all(len(i.evidence) == i.metadata["links"] for i in make("atc", 2, 1024, question=kind))
    assert [i.metadata["links"] for i in make("atc", 2, 2048, links=6)] == [6, 6]


def test_trees_answer_as_an_independent_walk():
    for item in make("hibench_common_ancestor", 5, 1024):
        parent = {c: p for p, c in re.findall(r"(\w+) -> (\w+)", item.context)}
        a, b = re.search(r"ancestor of (\w+) and (\w+)", item.question).groups()

        def up(x, parent=parent):
            return [x] + (up(parent[x]) if x in parent else [])

        assert next(x for x in up(a) if x in up(b)) == item.answers[0]
    edges, indented = (
        make("hibench_root", 1, 1024, form="edges")[0],
        make("hibench_root", 1, 1024, form="indented")[0],
    )
    assert indented.context.split("\n\n")[1].split("\n")[0] == indented.answers[0]
    assert edges.answers[0] not in {c for _, c in re.findall(r"(\w+) -> (\w+)", edges.context)}


def test_isomorphic_pairs_are_balanced_and_true():
    items = make("hibench_isomorphic", 6, 1024)
    assert [i.answers[0] for i in items] == ["yes", "no"] * 3
    tree = trees.Tree(random.Random(1), 20, 3)
    assert trees.twin(tree, random.Random(2), True).shape() == tree.shape()
    assert trees.twin(tree, random.Random(2), False).shape() != tree.shape()


def test_formula_value():
    infix, postfix, value = trees.formula(random.Random(4), 9)
    stack = []
    for token in postfix.split():
        if token in trees.OPERATORS:
            b, a = stack.pop(), stack.pop()
            stack.append(trees.OPERATORS[token](a, b))
        else:
            stack.append(int(token))
    assert stack[0] % 100 == value and infix.count("(") == 8


# -- biographies, exams, ordering, copying ----------------------------------------------------------------------------
def test_idk_items_come_in_pairs():
    stated, deleted = make("bio_idk", 2, 1024)
    assert stated.question == deleted.question and stated.metadata["pair"] == deleted.metadata["pair"]
    assert stated.answers[0] in stated.context and deleted.answers == ("not stated",)
    assert stated.evidence_text()[0] not in deleted.context


def test_density_controls_the_distractors():
    def share(density: float) -> float:
        item = make("bio_standard", 1, 4096, density=density)[0]
        start = {"birthday": "The birth date", "birthplace": "The birthplace", "hobby": "The hobby", "university": "The university",
                 "subject": "The subject", "workplace": "The town in which"}[item.metadata["field"]]  # fmt: skip
        return item.context.count(start) / item.metadata["biographies"]

    assert share(1.0) == 1.0 and share(0.0) < 0.1 and 0.2 < share(0.5) < 0.8


def test_all_wrong_baseline_is_its_formula():
    for item in make("longins_gist", 5, 1024):
        everything = " ".join(f"[{i + 1}]" for i in range(item.metadata["problems"]))
        assert score(item, everything) == pytest.approx(item.metadata["all_wrong_f1"])
        assert 1 <= len(item.answers) <= 0.3 * item.metadata["problems"] + 1


def test_tsort_gold_restores_the_text():
    for item in make("tsort", 3, 1024):
        shown = item.evidence_text()
        restored = "".join("".join(shown[int(n) - 1].split()) for n in re.findall(r"\d", item.answers[0]))
        source = "".join("".join(haystacks.open_haystack("prose").units).split())
        assert restored in source


def test_best_answer_loader(tmp_path):
    row = {
        "question_id": 5,
        "question": "How?",
        "all_answers": [f"Answer {i}" for i in range(12)],
        "answer": "A12",
        "tags": [],
    }
    folder = tmp_path / "ada-leval"
    folder.mkdir()
    path = folder / "stackselect_1k.json"
    path.write_text(json.dumps([row]))
    dataset = get_dataset("ada_leval_best_answer")
    (item,) = dataset.load(tmp_path)
    assert item.evidence_text() == ("A12:\n\nAnswer 11",)
    assert score(item, "A12") == 1.0 and score(item, "A1") == 0.0
    path = folder / "stackselect_2k.json"
    path.write_text(json.dumps([{"question": "How?", "answer": "A1"}]))
    with pytest.raises(BadInput, match="all_answers"):
        dataset.load(tmp_path, level="2k")


def test_mrcr_first_occurrence_floor():
    items = make("mrcr", 8, 1024)
    firsts = [score(i, i.candidates[0]) for i in items]
    for item, first in zip(items, firsts, strict=True):
        assert (first == 1.0) == (item.metadata["occurrence"] == 0) or first < 0.9


def test_mirbench_error_rate_spoils_that_share():
    clean, spoiled = (make("mirbench", 1, 4096, family="modular_sum", error_rate=e)[0] for e in (0.0, 0.5))
    a, b = (re.findall(r"Output: (.+)", i.context) for i in (clean, spoiled))
    changed = sum(x != y for x, y in zip(a, b, strict=False)) / min(len(a), len(b))
    assert 0.25 < changed < 0.6 and clean.answers == spoiled.answers


@pytest.mark.parametrize("order", ["cycled", "grouped", "shuffled"])
def test_icl_orders(order):
    item = make("icl_nonce", 1, 1024, order=order, classes=6)[0]
    shown = item.metadata["shown"]
    if order == "cycled":
        assert shown[:6] == shown[6:12]
    if order == "grouped":
        assert len(list(itertools.groupby(shown))) == 6
    assert set(shown) == set(item.metadata["labels"])


# -- data files -------------------------------------------------------------------------------------------------------
def test_babi_files_are_checked(tmp_path):
    good = tmp_path / "qa.txt"
    good.write_text(
        "1 Mary went home.\n2 Ann ran.\n3 Where is Mary? \thome\t1\n4 Mary sat.\n5 Where? \toffice\t4\n1 Bo is in.\n"
    )
    stories, labels = babilong.read_stories(good)
    assert labels == ("home", "office") and stories[0].support == (0,) and stories[1].facts[-1] == "Mary sat."
    bad = tmp_path / "bad.txt"
    bad.write_text("1 Mary went home.\nno number\n")
    with pytest.raises(BadInput, match="row 2"):
        babilong.read_stories(bad)


def test_qa_from_a_squad_file(tmp_path):
    text = "The mill of Orn was built in 1702 by Ada Fell."
    paragraph = {
        "context": text,
        "qas": [{"question": "Who built it?", "answers": [{"text": "Ada Fell", "answer_start": 37}]}],
    }
    others = [
        {
            "context": f"Paragraph {i} is about weather.",
            "qas": [{"question": "?", "answers": [{"text": f"w{i}", "answer_start": 0}]}],
        }
        for i in range(200)
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph, *others]}]}))
    item = make("qa_1", 1, 512, pool=str(path))[0]
    assert item.context.count("Document") > 10 and score(item, item.answers[0]) == 1.0
    path.write_text('{"rows": []}')
    ruler_qa.read_squad.cache_clear()
    with pytest.raises(BadInput, match="SQuAD"):
        make("qa_1", 1, 512, pool=str(path))


def test_missing_data_is_one_sentence(monkeypatch):
    monkeypatch.delenv("LONGSPAN_DATA", raising=False)
    with pytest.raises(BadInput, match="LONGSPAN_DATA"):
        make("babilong_qa1")


# -- scope and diffusion ----------------------------------------------------------------------------------------------
def test_measured_scope_and_diffusion():
    needle = taxonomy.measure(make("niah_single_2", 1, 4096, haystack="prose")[0])
    assert (needle.scope, needle.diffusion, needle.retrieval_only) == ("S0", "D0", True)
    trace = taxonomy.measure(make("atc", 1, 2048)[0])
    assert trace.scope == "S3" and trace.scope_ratio > 0.9 and trace.d > needle.d
    assert taxonomy.measure(make("perplexity", 1)[0]) is None


def test_filler_lowers_the_ratio_and_nothing_else():
    short, long = (taxonomy.measure(make("vt", 1, n, example="off")[0]) for n in (1024, 4096))
    assert long.scope_ratio < short.scope_ratio / 2
    assert long.scope_characters == short.scope_characters and long.hops == short.hops


def test_adjacent_spans_count_once():
    assert taxonomy._union(((5, 9), (0, 3), (2, 6))) == [(0, 9)]


# -- properties ---------------------------------------------------------------------------------------------------------
@given(st.text(alphabet="ab A.!?\"'\n)", max_size=80))
def test_sentence_spans_tile_any_text(text):
    spans = haystacks.split_sentences(text)
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a < b for a, b in spans)


@given(st.lists(st.text(alphabet="xyz. ", min_size=1, max_size=5), max_size=6), st.data())
def test_woven_needles_are_found_at_their_spans(units, data):
    places = data.draw(st.lists(st.integers(0, len(units)), max_size=4))
    needles = [(place, f"<{i}>") for i, place in enumerate(places)]
    text, spans = haystacks.weave(units, needles, " ")
    assert [text[a:b] for a, b in spans] == [needle for _, needle in needles]
    order = [place for _, place in sorted((a, p) for (a, _), p in zip(spans, places, strict=True))]
    assert order == sorted(order)


@given(st.integers(1, 400), st.integers(0, 9), st.integers(60, 900), st.integers(0, 300))
def test_fit_is_exact_for_uneven_units(per_unit, jitter, target, hint):
    def build(units: int) -> Item:
        words_ = sum(per_unit % 7 + 1 + (i * jitter) % 5 for i in range(units))
        return replace(BLANK, context="ab " * words_)

    item = fit(build, Budget(target, TOKENIZER, reserve=False), hint=hint)
    assert item.metadata["tokens"] <= target < item.metadata["tokens_one_more"]


def test_postfix_conversion_is_scored_whole():
    for item in make("hibench_convert", 3, 512):
        assert score(item, item.answers[0]) == 1.0 and score(item, item.answers[0][:-2]) == 0.0
        assert item.max_new_tokens >= 2 * len(item.answers[0].split())
