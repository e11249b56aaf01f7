"""Prompt compression with a rule scorer (labelled so: plumbing, budgets, manifests; quality is measured by the bench)."""

import ast
import itertools
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import BadInput
from longspan.methods.prompt import (
    METHODS,
    ExtractiveBM25,
    LLMLingua,
    LLMLingua2,
    LongCodeZip,
    LongLLMLingua,
    SpecPC,
    code,
)
from longspan.methods.prompt.baselines import RandomUnits, Truncate
from longspan.methods.prompt.llmlingua import keep_ratios
from longspan.methods.prompt.spans import bm25, paragraphs, sentences, terms

sys.path.insert(0, str(Path(__file__).parent))
from rule_scorer import RuleScorer

SCORER = RuleScorer()
NEEDLE = "The secret password of the northern lighthouse is marigold."
QUESTION = "What is the secret password of the northern lighthouse?"


def documents(count=10, seed=0):
    rng = random.Random(seed)
    words = "river stone window market garden letter music winter bridge copper sailor candle".split()
    made = [" ".join(rng.choices(words, k=28)).capitalize() + "." for _ in range(count)]
    made[count // 2] = "Many ships pass here. " + NEEDLE + " The keeper sleeps."
    return "\n\n".join(made)


def module(functions=24, seed=0):
    rng, parts = random.Random(seed), ["import math\n\nRATE = 3\n"]
    for i in range(functions):
        name = "tax_for" if i == functions // 2 else f"helper_{i}"
        body = "\n".join(
            f"    value_{j} = {rng.randint(2, 99)} + RATE * {j}" for j in range(rng.randint(2, 9))
        )
        parts.append(f"def {name}(order):\n    # step {i}\n{body}\n    return value_0 * 0.{i + 10}\n")
    parts.append("class Basket:\n    size = 4\n\n    def fill(self, order):\n        return tax_for(order)\n")
    return "\n\n".join(parts)


ALL = [
    ExtractiveBM25(),
    LLMLingua(),
    LLMLingua(filter_sentences=True),
    LongLLMLingua(),
    LLMLingua2(),
    LongCodeZip(),
    SpecPC(window=8, kernel=5),
    RandomUnits(),
    Truncate(),
    Truncate(keep="tail"),
]
ids = [
    type(m).__name__ + "-sentences" * getattr(m, "filter_sentences", 0) + getattr(m, "keep", "") for m in ALL
]


def text_for(method):
    return module() if isinstance(method, LongCodeZip) else documents()


@pytest.mark.parametrize("method", ALL, ids=ids)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_budget_is_never_exceeded_and_the_manifest_is_exact(method, share):
    text = text_for(method)
    total = SCORER.count_tokens(text)
    budget = int(total * share)
    out = method.compress(text, QUESTION, budget, SCORER)
    assert out.tokens == SCORER.count_tokens(out.text) <= budget
    assert out.source_tokens == total
    for kept in out.manifest:
        assert out.text[kept.out_start : kept.out_end] == text[kept.start : kept.end]
    spans = sorted((k.start, k.end) for k in out.manifest)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))  # nothing is kept twice
    assert out == method.compress(text, QUESTION, budget, SCORER)


@pytest.mark.parametrize("method", ALL, ids=ids)
def test_a_budget_that_holds_everything_is_the_identity_without_a_model_call(method):
    text = text_for(method)
    out = method.compress(text, QUESTION, SCORER.count_tokens(text), SCORER)
    assert out.text == text
    assert out.calls == 0
    assert [(k.start, k.end) for k in out.manifest] == [(0, len(text))]


@pytest.mark.parametrize("method", ALL, ids=ids)
def test_hopeless_budgets_and_empty_texts(method):
    assert method.compress(text_for(method), QUESTION, 1, SCORER).tokens <= 1
    with pytest.raises(BadInput, match="budget"):
        method.compress("some text", QUESTION, 0, SCORER)
    with pytest.raises(BadInput, match="empty"):
        method.compress(" \n", QUESTION, 10, SCORER)


@pytest.mark.parametrize("method", [ExtractiveBM25(), LLMLingua(), LongLLMLingua(), LLMLingua2()])
@settings(max_examples=15, deadline=None)
@given(text=st.text(alphabet="ab cd.\n,é!", min_size=1, max_size=90), budget=st.integers(1, 30))
def test_any_text_fits_any_budget(method, text, budget):
    if not text.strip():
        return
    out = method.compress(text, "ab cd", budget, SCORER)
    assert out.tokens <= budget
    assert all(out.text[k.out_start : k.out_end] == text[k.start : k.end] for k in out.manifest)


def test_token_methods_spend_the_whole_budget():
    text = documents()
    for method in (LLMLingua(document_slack=10_000), LongLLMLingua(document_slack=10_000), LLMLingua2()):
        assert method.compress(text, QUESTION, 120, SCORER).tokens >= 118, method


# LLMLingua


def test_question_aware_ranking_keeps_the_needle_and_a_quote_leads_back_to_the_source():
    text = documents()
    at = text.index(NEEDLE)
    aware = LongLLMLingua(contrast=False).compress(text, QUESTION, SCORER.count_tokens(text) // 5, SCORER)
    assert aware.holds(at, at + len(NEEDLE)) > 0.6
    assert aware.text.index("marigold") < 200  # "sort" puts the best document first
    quote = aware.text.index("marigold")
    start, end = aware.source_of(quote, quote + len("marigold"))
    assert text[start:end] == "marigold"
    assert ExtractiveBM25().compress(text, QUESTION, 40, SCORER).holds(at, at + len(NEEDLE)) == 1


def test_without_reordering_the_output_is_a_subsequence_of_the_input():
    text = documents()
    for method in (LLMLingua(), LongLLMLingua(reorder="original"), LLMLingua2()):
        remaining = iter(text)
        assert all(c in remaining for c in method.compress(text, QUESTION, 90, SCORER).text), method


def test_surprising_tokens_stay_and_forced_ones_too():
    text = "river " * 120 + "zanzibar " + "river " * 120
    assert "zanzibar" in LLMLingua().compress(text, "", 20, SCORER).text
    forced = LLMLingua(force=(",",)).compress("one two, three four, " * 30, "", 80, SCORER)
    assert forced.text.count(",") == 60


def test_keep_ratios_are_linear_clamped_and_centred():
    assert keep_ratios([10, 10, 10], 12, 0.0) == pytest.approx([12 / 37] * 3)
    ratios = keep_ratios([10, 10, 10], 12, 0.3)
    assert ratios == pytest.approx([12 / 37 + 0.3, 12 / 37, 12 / 37 - 0.3])
    assert keep_ratios([10, 10], 40, 0.9)[0] == 1.0
    assert keep_ratios([5], 5, 0.3) == pytest.approx([5 / 8])


def test_two_stage_order_is_even_ranks_then_odd_reversed():
    kept = [(0, 10), (10, 20), (20, 30), (30, 40)]
    place = LongLLMLingua(reorder="two_stage").place(kept, {span: i for i, span in enumerate(kept)})
    assert sorted(kept, key=place) == [(0, 10), (20, 30), (30, 40), (10, 20)]


def test_sentence_filter_drops_before_tokens():
    text = documents()
    plain = LLMLingua().compress(text, QUESTION, 100, SCORER)
    filtered = LLMLingua(filter_sentences=True).compress(text, QUESTION, 100, SCORER)
    assert len(filtered.manifest) < len(plain.manifest)


# LLMLingua-2


class Digits:
    """A classifier that keeps what holds a digit."""

    def keep_probabilities(self, text):
        _, offsets, _ = SCORER.token_logprobs("", text)
        return offsets, [0.9 if any(c.isdigit() for c in text[a:b]) else 0.1 for a, b in offsets]

    def count_tokens(self, text):
        return SCORER.count_tokens(text)


def test_a_classifier_decides_and_forced_words_win():
    text = " ".join(f"word{i}" if i % 5 == 0 else "filler" for i in range(100)) + " end."
    out = LLMLingua2().compress(text, "", 20, Digits())
    assert out.text.split() == [f"word{i}" for i in range(0, 100, 5)]
    assert "end." in LLMLingua2(force=("end.",)).compress(text, "", 20, Digits()).text
    assert LLMLingua2(keep_digits=True).compress(text, "", 30, SCORER).text.count("word") == 20


def test_chunks_cover_all_words_and_end_at_full_stops():
    from longspan.methods.prompt.base import CountedScorer

    text = " ".join(["alpha beta gamma delta."] * 40)
    spans = LLMLingua2(chunk=22).chunks(text, CountedScorer(SCORER))
    assert [text[a:b].strip() for a, b in spans if not text[a:b].endswith(".")] == []
    assert all(SCORER.count_tokens(text[a:b]) <= 22 for a, b in spans)
    assert "".join(text[a:b] for a, b in spans) == text


# LongCodeZip


def test_the_function_the_query_needs_survives_with_its_lines():
    text = module()
    out = LongCodeZip().compress(text, "total = tax_for(order)", SCORER.count_tokens(text) // 4, SCORER)
    assert "def tax_for(order):" in out.text
    source = set(text.split("\n"))
    assert all(line in source or line.strip() == "# ..." for line in out.text.split("\n"))
    order = [line for line in out.text.split("\n") if line.startswith("def ")]
    assert order == [line for line in text.split("\n") if line in order]
    assert "# ...\n# ..." not in out.text


def test_functions_cover_the_file_and_methods_keep_their_class():
    text = (
        module(6)
        + "\n\n@deco\nclass Other:\n    '''doc'''\n\n    @property\n    def a(self):\n        return 1\n"
    )
    cut = code.functions(text, "python")
    assert "".join(text[a:b] for a, b in cut) == text
    method = next(s for s in cut if "def a(self)" in text[slice(*s)])
    assert text[slice(*method)].startswith("    @property")
    assert "class Other" in text[slice(*code.class_header(text, method, cut))]
    out = LongCodeZip().compress(text, "b.fill(order)  # fill self", 24, SCORER)
    assert ("def fill" not in out.text) or ("class Basket:" in out.text)


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("python", "x = 1\ndef a(:\n    pass\ndef b():\n    pass\n", 3),
        ("javascript", "import x\nexport function a() {\n}\nconst b = (y) => {\n}\n", 3),
        ("java", "class A {\n  public int a(int x) {\n  }\n  private void b() {\n  }\n}\n", 3),
        ("rust", "use a;\npub fn a() {\n}\nimpl B {\n}\n", 3),
        ("go", "package a\n\nfunc A() {\n}\ntype B struct {\n}\n", 3),
        ("c", "#include <a>\nint main(int x) {\n  f(x);\n}\n", 2),
    ],
)
def test_headers_cut_other_languages_and_broken_code(language, text, count):
    cut = code.functions(text, language)
    assert "".join(text[a:b] for a, b in cut) == text
    assert len(cut) == count


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (module(), "python"),
        ("import x\nexport function a() {\n  return 1;\n}\nfunction b() {\n}\n", "javascript"),
        ("use a;\npub fn a() {\n  b();\n}\nimpl B {\n}\n", "rust"),
        ("package a\n\nfunc A() {\n\tb()\n}\ntype B struct {\n}\n", "go"),
        (documents(), "text"),
        ("One line of prose (with a bracket) and nothing else.", "text"),
    ],
)
def test_the_language_is_told_by_the_look_of_the_lines(text, language):
    assert code.detect(text) == language


def test_prose_is_cut_at_sentences_and_the_answering_one_is_found():
    filler = [f"The bread of day {i} was good and the road was wet." for i in range(40)]
    text = " ".join([*filler[:23], NEEDLE, *filler[23:]])
    assert "".join(text[a:b] for a, b in code.functions(text, "text")) == text
    out = LongCodeZip().compress(text, QUESTION, SCORER.count_tokens(text) // 4, SCORER)
    at = text.index(NEEDLE)
    assert out.holds(at, at + len(NEEDLE)) == 1 and "... " in out.text
    small = LongCodeZip().compress(text, QUESTION, 30, SCORER)
    assert small.manifest and small.tokens <= 30
    with pytest.raises(BadInput, match="did you mean python"):
        LongCodeZip(language="pyton")


def test_blocks_cut_after_peaks_only():
    rows = [(i, i + 1) for i in range(8)]
    surprise = np.array([1.0, 1, 9, 1, 1, 8, 1, 1])
    assert code.blocks(rows, surprise) == [(0, 3), (3, 6), (6, 8)]
    assert code.blocks(rows, np.ones(8)) == [(0, 8)]
    text = "aa\n\nbb bb\n"
    rows = code.lines(text)
    per_line = code.line_surprise(rows, [(0, 2), (2, 3), (4, 6), (6, 9)], [-1.0, -3.0, -2.0, -4.0], 0)
    assert np.allclose(per_line * np.log(2), [2, 0, 3])


@given(st.lists(st.tuples(st.floats(-2, 5), st.integers(0, 9)), max_size=9), st.integers(0, 25))
@settings(max_examples=80, deadline=None)
def test_knapsack_is_optimal_and_greedy_is_never_better(items, capacity):
    values, weights = [v for v, _ in items], [w for _, w in items]

    def total(chosen):
        assert sum(weights[i] for i in chosen) <= capacity
        return sum(values[i] for i in chosen)

    best = max(
        sum(values[i] for i in s)
        for r in range(len(items) + 1)
        for s in itertools.combinations(range(len(items)), r)
        if sum(weights[i] for i in s) <= capacity
    )
    exact = total(code.knapsack(values, weights, capacity))
    assert exact == pytest.approx(best)
    assert exact >= total(code.knapsack(values, weights, capacity, limit=-1)) - 1e-9


def test_equal_worth_gives_equal_ratios_and_a_broken_cut_falls_back():
    text = module()
    zip_ = LongCodeZip()
    chunks = code.functions(text, "python")
    large = [s for s in chunks if len(code.lines(text, *s)) >= zip_.min_lines]
    assert len({round(zip_.ratios(text, chunks, dict.fromkeys(chunks, 1.0))[s], 9) for s in large}) == 1
    worth = {s: float(i) for i, s in enumerate(chunks)}
    ratios = zip_.ratios(text, chunks, worth)
    assert ratios[large[-1]] > ratios[large[0]]
    out = LongCodeZip(fine_ratio=0.5).compress(text, "tax_for(order)", SCORER.count_tokens(text) // 2, SCORER)
    ast.parse(out.text.split("class Basket")[0])


# lexical steps


def test_bm25_prefers_rare_terms_and_cuts_identifiers():
    scores = bm25("tax rate", ["the tax_for order", "taxRate is here", "nothing at all"])
    assert scores[1] > scores[0] > scores[2] == 0
    assert terms("taxFor HTTPServer") == ["taxfor", "tax", "for", "httpserver", "http", "server"]


def test_spans_cover_text():
    text = "One. Two?\n\n\nThree!\nFour"
    assert "".join(text[a:b] for a, b in paragraphs(text)) == text
    assert [text[a:b].strip() for a, b in sentences(text)] == ["One.", "Two?", "Three!", "Four"]


def test_every_method_is_registered():
    assert {type(m) for m in ALL} == set(METHODS.values())


def test_truncation_keeps_an_end():
    text = documents()
    assert text.startswith(Truncate().compress(text, "", 60, SCORER).text[:40])
    assert text.endswith(Truncate(keep="tail").compress(text, "", 60, SCORER).text[-40:])


def test_passages_are_scored_together_when_the_scorer_can():
    class Together(RuleScorer):
        batches = 0

        def token_logprobs_many(self, pairs):
            type(self).batches += 1
            return [self.token_logprobs(*pair) for pair in pairs]

    for method in (LLMLingua(), LongLLMLingua(), LongCodeZip()):
        text, before = text_for(method), Together.batches
        budget = SCORER.count_tokens(text) // 3
        together = method.compress(text, QUESTION, budget, Together())
        assert Together.batches > before
        assert together == method.compress(text, QUESTION, budget, SCORER)
