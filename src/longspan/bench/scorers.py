"""Scorers: how much of an item's answer a reply holds, 0 to 1. Pure Python; each names its origin.

Containment follows RULER: the reply is cleaned (non-printable characters become line breaks, ends stripped) and compared without case.
`containment_all` = mean over the answers, `containment_any` = one of them suffices (RULER's qa; lm-evaluation-harness takes
the mean there instead). F1 and exact match follow SQuAD's normalisation. Reference defects that the sheets list are not repeated:
no substring match of labels such as A1 in A12, no prefix match of short lists, no evaluation of model text.
"""

import difflib
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable

from longspan.bench.item import Item
from longspan.errors import BadInput, nearest

Scorer = Callable[[str, Item], float]


def clean(reply: str) -> str:
    """RULER's post-processing of a reply."""
    return re.sub(r"[\x00-\x1f]", "\n", reply).strip()


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def first_line(reply: str) -> str:
    return reply.strip().split("\n", 1)[0].strip()


def has_word(text: str, word: str) -> bool:
    """`word` occurs in `text` as a whole: not inside a longer word, number or hyphenated word. Case is ignored."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE) is not None


def containment_all(reply: str, item: Item) -> float:
    text = clean(reply).lower()
    return sum(answer.lower() in text for answer in item.answers) / len(item.answers)


def containment_any(reply: str, item: Item) -> float:
    text = clean(reply).lower()
    return float(any(answer.lower() in text for answer in item.answers))


def first_digits(reply: str, item: Item) -> float:
    """The first run of digits of the reply is an answer (LongChat's lines)."""
    found = re.search(r"\d+", reply)
    return float(found is not None and found.group() in item.answers)


def presence(reply: str, item: Item) -> float:
    """An answer, ends stripped, is a substring of the reply, with its case (Giraffe's presence accuracy)."""
    return float(any(answer.strip() in reply for answer in item.answers))


def words_all(reply: str, item: Item) -> float:
    """Mean over the answers of whole-word containment: for short answers that could lie inside other words."""
    return sum(has_word(clean(reply), answer) for answer in item.answers) / len(item.answers)


def words_any(reply: str, item: Item) -> float:
    return float(any(has_word(clean(reply), answer) for answer in item.answers))


def words_or_brackets(reply: str, item: Item) -> float:
    """Mean of the answer's words and of its bracketed number (LongBioBench's citation), each whole."""
    text = clean(reply)
    return sum((a in text) if a.startswith("[") else has_word(text, a) for a in item.answers) / len(
        item.answers
    )


def age_difference(reply: str, item: Item) -> float:
    """Exactly two people of the context are named and their birth years differ as asked (LongBioBench's twodiff)."""
    born = item.metadata["born"]
    named = [name for name in born if has_word(reply, name)]
    return float(len(named) == 2 and abs(born[named[0]] - born[named[1]]) == item.metadata["difference"])


def ordered_all(reply: str, item: Item) -> float:
    """1 when all answers occur in the given order, each after the end of the one before (LongBioBench), else 0."""
    text, at = clean(reply).lower(), 0
    for answer in item.answers:
        hit = re.compile(rf"(?<!\w){re.escape(answer.lower())}(?!\w)").search(text, at)
        if hit is None:
            return 0.0
        at = hit.end()
    return 1.0


def ordered_share(reply: str, item: Item) -> float:
    """Share of the answers matched in order (needle threading's rule for several values)."""
    text, at, found = clean(reply).lower(), 0, 0
    for answer in item.answers:
        hit = text.find(answer.lower(), at)
        if hit >= 0:
            found, at = found + 1, hit + len(answer)
    return found / len(item.answers)


def starts_with(reply: str, item: Item) -> float:
    """The reply without surrounding quotes, cut to the answer's length, equals an answer (needle threading)."""
    text = reply.strip().lstrip("\"'` ").lower()
    return float(any(text[: len(a)] == a.lower() for a in item.answers))


def exact_line(reply: str, item: Item) -> float:
    """The reply's first line equals an answer after SQuAD's normalisation."""
    line = normalise(first_line(reply))
    return float(any(line == normalise(a) for a in item.answers))


def exact_text(reply: str, item: Item) -> float:
    """The first line equals an answer up to case, spaces, quotes and a final stop: for answers made of symbols."""
    line = " ".join(first_line(reply).strip("\"'`").rstrip(".").split()).lower()
    return float(any(line == " ".join(a.split()).lower() for a in item.answers))


def f1_tokens(prediction: str, gold: str) -> float:
    """SQuAD F1 of two texts: bag of normalised words."""
    got, want = normalise(prediction).split(), normalise(gold).split()
    shared = sum((Counter(got) & Counter(want)).values())
    return 2 * shared / (len(got) + len(want)) if shared else 0.0


def f1(reply: str, item: Item) -> float:
    return max(f1_tokens(reply, a) for a in item.answers)


def set_f1(found: Iterable[str], gold: Iterable[str]) -> float:
    """F1 of two sets; two empty sets are equal."""
    got, want = set(found), set(gold)
    if not got and not want:
        return 1.0
    return 2 * len(got & want) / (len(got) + len(want))


def comma_set_f1(reply: str, item: Item) -> float:
    """F1 of the first line's comma-separated names against the gold set."""
    found = {" ".join(p.split()).strip("\"'`.").lower() for p in first_line(reply).split(",")} - {""}
    return set_f1(found, (a.lower() for a in item.answers)) if found else 0.0


def line_set_f1(reply: str, item: Item) -> float:
    """F1 of the reply's lines against the gold lines, spaces and case folded."""
    found = {" ".join(line.split()).lower() for line in reply.splitlines()} - {""}
    return set_f1(found, (a.lower() for a in item.answers)) if found else 0.0


def bracket_numbers_f1(reply: str, item: Item) -> float:
    """F1 of all whole numbers inside square brackets of the reply against the gold numbers (LongIns)."""
    found = {n for group in re.findall(r"\[([^\[\]]*)\]", reply) for n in re.findall(r"\d+", group)}
    return set_f1(found, item.answers) if found or not item.answers else 0.0


def last_number(reply: str, item: Item) -> float:
    """The last whole number of the reply equals the answer (LongBioBench's arithmetic)."""
    numbers = re.findall(r"-?\d+", reply.replace(",", ""))
    return float(bool(numbers) and any(int(numbers[-1]) == int(a) for a in item.answers))


def boxed(reply: str, item: Item) -> float:
    """The last boxed text equals the answer (NeedleBench's reasoning); without a box the reply's first line counts only when it
    is the bare answer, so that models which were given an opened answer are not punished for it."""
    boxes = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", reply)
    text = boxes[-1] if boxes else first_line(reply)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = " ".join(re.sub(r"[\\~\"'`]", " ", text).split()).rstrip(".").lower()
    return float(any(text == a.lower() for a in item.answers))


def label_set(reply: str, item: Item) -> float:
    """BABILong: the task's labels named in the first sentence, without those that the question names, are exactly the gold."""
    text = reply.lower().split(".")[0].split("<context>")[0].split("<example>")[0].split("question")[0]
    labels, asked = item.metadata["labels"], item.metadata["asked"]
    found = {label for label in labels if has_word(text, label) and not has_word(asked, label)}
    return float(found == {part for answer in item.answers for part in answer.lower().split(",")})


def rows_f1(reply: str, item: Item) -> float:
    """Table answers: one row a line as `v1 | v2`; F1 over rows; for ranked queries times the share of pairs in order."""
    rows = [row for line in reply.strip().split("\n") if (row := _row(line))]
    gold = [_row(a) for a in item.answers]
    score = set_f1(rows, gold) if rows or not gold else 0.0
    if item.metadata.get("ordered") and len(gold) > 1:
        place = {row: i for i, row in enumerate(gold)}
        seen = [place[row] for row in dict.fromkeys(rows) if row in place]
        pairs = [(a, b) for i, a in enumerate(seen) for b in seen[i + 1 :]]
        score *= sum(a < b for a, b in pairs) / len(pairs) if pairs else 1.0
    return score


def _row(line: str) -> str:
    cells = [cell.strip().strip("\"'").rstrip(".").lower() for cell in line.strip().strip("-*").split("|")]
    return " | ".join(_number(cell) for cell in cells if cell)


def _number(cell: str) -> str:
    plain = cell.replace(",", "")
    return f"{float(plain):g}" if re.fullmatch(r"-?\d+(\.\d+)?", plain) else cell


def permutation(reply: str, item: Item) -> float:
    """Ada-LEval TSort: the first list of numbers in the reply (after "Answer:" when present) equals the gold list in full."""
    text = reply.rsplit("Answer:", 1)[-1]
    group = re.search(r"\[([^\[\]]*)\]", text)
    numbers = re.findall(r"\d+", group.group(1) if group else text)
    return float(numbers == re.findall(r"\d+", item.answers[0]))


def copy_ratio(reply: str, item: Item) -> float:
    """MRCR: 0 unless the reply opens with the given string; else difflib's ratio of the rest against the gold passage."""
    opening, text = item.metadata["opening"], reply.lstrip()
    if not text.startswith(opening):
        return 0.0
    gold = item.answers[0].removeprefix(opening).strip()
    return difflib.SequenceMatcher(None, text.removeprefix(opening).strip(), gold).ratio()


def output_value(reply: str, item: Item) -> float:
    """MIR-Bench: text after the last "Output:" (marks and fences dropped) equals the gold up to quotes and spaces."""
    text = re.split(r"[Oo]utput:", reply)[-1].replace("**", "").replace("```", "").strip()
    text = first_line(text).strip("\"'` ")
    return float(any(text == a.strip("\"'` ") for a in item.answers))


SCORERS: dict[str, Scorer] = {
    f.__name__: f
    for f in (
        containment_all, containment_any, presence, first_digits, words_all, words_any, words_or_brackets, age_difference, ordered_all, ordered_share, starts_with, exact_line, exact_text,
        f1, comma_set_f1, line_set_f1, bracket_numbers_f1, last_number, boxed, label_set, rows_f1, permutation, copy_ratio, output_value,
    )
}  # fmt: skip


def scorer_names() -> dict[str, Scorer]:
    """Every scorer: the ones above and those of the published benchmarks, which need more modules than a generator does."""
    from longspan.bench.scorers_published import PUBLISHED

    return {**PUBLISHED, **SCORERS}


def score(item: Item, reply: str) -> float:
    """The reply's score on `item`, 0 to 1, by the item's own scorer."""
    known = SCORERS if item.scorer in SCORERS else scorer_names()
    if item.scorer not in known:
        raise BadInput(f"no scorer called {item.scorer!r}: {nearest(item.scorer, known)}")
    return known[item.scorer](reply, item)


def rank_score(item: Item, logprobs: Iterable[float]) -> tuple[float, float]:
    """Ranking mode: (1 if the likeliest candidate is right, margin = best right - best wrong, in nats).
    `logprobs`: one summed log-probability per candidate, in the order of `item.candidates`."""
    pairs = list(zip(item.candidates or (), logprobs, strict=True))
    golds = set(item.rank_golds)
    right = max((p for c, p in pairs if c in golds), default=float("-inf"))
    wrong = max((p for c, p in pairs if c not in golds), default=float("-inf"))
    return float(right > wrong), right - wrong
