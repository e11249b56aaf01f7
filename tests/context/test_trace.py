"""Tracing and compressing a file with a rule model, the pages and the three commands; no claim about quality."""

import json
import re

import pytest

from longspan.cli import main as cli
from longspan.context.agents.agentwrite import brief_of
from longspan.context.backends.rule import RuleModel
from longspan.context.compression import compress_file
from longspan.context.memory import opening
from longspan.context.port import LogProbs
from longspan.context.prompts import agents as prompts
from longspan.context.scorer import PortScorer
from longspan.context.trace import METHODS, trace
from longspan.errors import BadInput
from longspan.report.trace_page import render

NEEDLE = "The code of the depot is 7314."
TEXT = " ".join(
    [f"The garden of house {i} is green." for i in range(6)] + [NEEDLE] + ["Rain fell on <b>Monday</b>."]
)
QUESTION = "What is the code of the depot?"


class Cache(RuleModel):
    """A cache language model: words that stand in the prefix are cheap."""

    capabilities = frozenset({"logprobs"})

    def logprobs(self, prefix_text, continuation_text):
        seen = set(re.findall(r"\w+", prefix_text.lower()))
        spans = tuple(m.span() for m in re.finditer(r"\s*(?:\w+|[^\w\s])|\s+", continuation_text))
        words = [continuation_text[a:b].strip().lower() for a, b in spans]
        return LogProbs(tuple(words), spans, tuple(-0.2 if w in seen else -5.0 for w in words))


def model(answer="7314"):
    return Cache({prompts.ANSWER: lambda f: answer if answer in f["notes"] else "not in the text"})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_passage_and_the_answer_may_be_the_models_own(method):
    found = trace(model(), TEXT, QUESTION, method=method)
    assert found.answer == "7314" and not found.given
    assert found.sources[found.attribution.ranking()[0]].text.strip() == NEEDLE
    assert found.support == pytest.approx(4.8)
    given = trace(model(), TEXT, QUESTION, answer="7314", method=method)
    assert given.given and given.attribution.ranking()[0] == found.attribution.ranking()[0]


def test_a_long_document_is_scored_where_it_matters_and_says_so():
    long = " ".join(f"The garden of house {i} is very green in spring." for i in range(400)) + " " + NEEDLE
    found = trace(model(), long, QUESTION, answer="7314", window=400)
    unscored = [v for v in found.attribution.scores if v == float("-inf")]
    assert len(found.sources) == 401 and len(unscored) > 350
    assert found.sources[found.attribution.ranking()[0]].text == NEEDLE
    page = render(found, "long")
    assert f"{len(unscored)} of 401 passages were not scored" in page


def test_the_page_escapes_everything_and_shows_the_whole_document():
    found = trace(
        model("<script>7314</script>"),
        TEXT + " <script>alert(1)</script>",
        "<i>what?</i>",
        answer="<script>7314</script>",
    )
    page = render(found, "<title>")
    body = page.split('<div class="document">')[1]
    assert "<script>" not in page and "<b>Monday" not in page
    assert re.sub(r"<[^>]*>", "", body) == "".join(s.text for s in found.sources).replace(
        "<", "&lt;"
    ).replace(">", "&gt;")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": " "}, "document"),
        ({"question": ""}, "question"),
        ({"answer": " "}, "answer"),
        ({"method": "contextsite"}, "did you mean contextcite"),
        ({"level": "page"}, "level"),
        ({"method": "shapley", "text": "A b c. " * 40}, "TracLLM"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said):
    with pytest.raises(BadInput, match=said):
        trace(model(), **({"text": TEXT, "question": QUESTION, "answer": "7314"} | arguments))
    with pytest.raises(BadInput, match="log-prob"):
        trace(RuleModel(), TEXT, QUESTION, answer="x")


def test_a_file_is_compressed_to_tokens_or_a_share(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    for method in ("bm25", "longllmlingua", "llmlingua", "truncate", "random_units"):
        out = compress_file(model(), path, 0.5, QUESTION, method)
        assert out.tokens <= out.budget == out.source_tokens // 2
        assert all(out.text[k.out_start : k.out_end] == TEXT[k.start : k.end] for k in out.manifest)
    assert compress_file(model(), path, 9, QUESTION, "bm25").text.strip() == NEEDLE
    code = tmp_path / "a.py"
    code.write_text("def a():\n    return 1\n\n\ndef depot_code():\n    return 7314\n")
    assert "depot_code" in compress_file(model(), code, 16, "depot_code", "longcodezip").text
    for budget, question, method in ((0, "q", "bm25"), ("x", "q", "bm25"), (9, "", "bm25"), (9, "q", "bm52")):
        with pytest.raises(BadInput):
            compress_file(model(), path, budget, question, method)
    with pytest.raises(BadInput, match="log-prob"):
        PortScorer(RuleModel()).token_logprobs("", "x")


# the commands


@pytest.fixture
def commands(monkeypatch, tmp_path):
    from longspan.bench.responders import writer

    monkeypatch.setattr(
        opening, "chat_model", lambda spec, wanted_by="": writer() if spec == "none" else model()
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doc.txt").write_text(TEXT)
    return lambda *arguments: cli.run(list(arguments))


def test_write_command_makes_the_file_and_reports(commands, tmp_path, capsys):
    (tmp_path / "brief.txt").write_text("A short history of the lighthouse.")
    assert commands("write", "brief.txt", "--words", "900", "--out", "t.md", "--model", "none") == 0
    said = capsys.readouterr()
    assert "words in" in said.out and "part 1 of" in said.err
    assert 810 <= len((tmp_path / "t.md").read_text().split()) <= 990
    assert commands("write", "brief.txt", "--words", "900", "--out", "t.md", "--model", "none") == 2
    assert "exists already" in capsys.readouterr().err
    assert commands("write", "missing.txt", "--words", "900", "--out", "u.md", "--model", "none") == 2
    assert brief_of("a brief " * 200) == "a brief " * 200


def test_trace_command_prints_passages_and_draws_them(commands, tmp_path, capsys):
    assert commands("trace", "doc.txt", QUESTION, "--out", "t.html") == 0
    said = capsys.readouterr().out
    assert "answer: 7314" in said and NEEDLE in said.splitlines()[1]
    assert "7314" in (tmp_path / "t.html").read_text()
    assert commands("trace", "none.txt", QUESTION) == 2


def test_compress_command_prints_or_writes_with_a_manifest(commands, tmp_path, capsys):
    assert commands("compress", "doc.txt", "--budget", "20", "--question", QUESTION, "--method", "bm25") == 0
    assert NEEDLE in capsys.readouterr().out
    files = ["--out", "s.txt", "--manifest", "m.json"]
    assert commands("compress", "doc.txt", "--budget", "0.5", "--question", QUESTION, *files) == 0
    kept = json.loads((tmp_path / "m.json").read_text())["kept"]
    short = (tmp_path / "s.txt").read_text()
    assert all(short[k["out_start"] : k["out_end"]] == TEXT[k["start"] : k["end"]] for k in kept)
    assert commands("compress", "doc.txt", "--budget", "many", "--question", "q") == 2
