"""Synthetic tasks for tiny models: what to remember, at which distance, with an exact answer.

| task | context line | question -> answer |
|---|---|---|
| recall | ``@ba=ke`` name @ba has value =ke | ``?@ba`` -> ``=ke`` |
| tracking | ``@do@ba`` name @do has the value of @ba (chains) | ``?@do`` -> ``=ke`` |
| copying | ``*@ba=ke=lo=mi`` a passage with its name, among others | ``*@ba`` -> the passage |
| counting | ``+@ba`` one occurrence of @ba, of a few names | ``+?@ba`` -> a digit, 0 to 9 |
| pairs | ``@ba=ke@do=la@ba=ke...`` names with their values, again and again | every value whose name came before |
| text | prose from Python's own documentation (`pydoc_data.topics`) | |

Lines of a task stand at random places of prose until the sample has exactly the asked number of tokens, so nothing is padded. A sample ends with several
questions and their answers. `pairs` is a drill, not a test: a third of its tokens are supervised recalls, which is what makes recall form early.
Tracking and counting carry hints for training: at the end of a context line the model should already know what the line amounts to (the value of the
name, the number of its occurrences so far), though the text goes on with something else. So each step of the way is supervised, and nothing leaks.

The vocabulary is the 256 bytes, one token for each name and value, and <s>, </s>: below 512, and any text round-trips.
"""

import pydoc_data.topics
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)
NAMES = tuple("@" + s for s in SYLLABLES)
VALUES = tuple("=" + s for s in SYLLABLES)
COUNTED = NAMES[
    :6
]  # what counting counts: a head that finds all of one name among 100 takes a tiny model far longer to form
IGNORED, PROSE, ANSWER = 0, 1, 2  # what a token is to the loss; below 0: a hint
HELD_OUT_SHARE = 0.1


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose only merges build the names and the values."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(mark, c) for mark in "@=" for c in CONSONANTS]
    merges += [(mark + c, v) for mark in "@=" for c in CONSONANTS for v in VOWELS]
    words = ["<s>", "</s>", *alphabet, *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


@cache
def _ids() -> dict[str, int]:
    return tokenizer().get_vocab()


def _encode(*pieces: str) -> list[int]:
    return [_ids()[p if p != "\n" else "Ċ"] for p in pieces]


@cache
def documentation(held_out: bool = False) -> str:
    """The documentation's prose, lines stripped; the last tenth of the topics is held out for evaluation."""
    topics = sorted(pydoc_data.topics.topics)
    cut = int(len(topics) * (1 - HELD_OUT_SHARE))
    chosen = topics[cut:] if held_out else topics[:cut]
    lines = (line.strip() for topic in chosen for line in pydoc_data.topics.topics[topic].splitlines())
    # rules and table borders
    return re.sub(r"([ =+|*_~-])\1+", r"\1", "\n".join(line for line in lines if line))


@cache
def prose(held_out: bool = False) -> np.ndarray:
    """Token ids of `documentation`."""
    text = documentation(held_out)
    return np.array(tokenizer()(text, add_special_tokens=False)["input_ids"], dtype=np.int64)


@dataclass(frozen=True)
class Sample:
    """One sequence of token ids.

    kinds: what each token is to the loss; -t where, instead of this token, t is to be foretold: a hint. answers: half-open token range of each answer. evidence: for each question, the first token of every
    context line it rests on.
    """

    ids: np.ndarray
    kinds: np.ndarray
    answers: tuple[tuple[int, int], ...]
    evidence: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Difficulty:
    """Largest numbers a sample draws. The number of lines also shrinks with the length."""

    records: int = 48
    questions: int = 12
    hops: int = 2
    copies: int = 8
    counts: int = 5
    distractors: int = 3


@dataclass(frozen=True)
class _Plan:
    lines: list[list[int]]
    questions: list[
        tuple[list[int], list[int], tuple[int, ...]]
    ]  # question, answer, indices of its evidence lines
    hints: dict[int, int] = field(default_factory=dict)  # line -> token to have in mind at its end


def _prose_slice(rng: np.random.Generator, length: int, held_out: bool) -> np.ndarray:
    source = prose(held_out)
    start = int(rng.integers(0, len(source) - length))
    return source[start : start + length]


def _assemble(rng: np.random.Generator, plan: _Plan, length: int, held_out: bool) -> Sample:
    tail, tail_kinds, answers = [], [], []
    for question, answer, _ in plan.questions:
        tail += question
        tail_kinds += [PROSE] + [IGNORED] * (len(question) - 1)
        answers.append((len(tail), len(tail) + len(answer)))
        tail += answer
        tail_kinds += [ANSWER] * len(answer)
    tail += _encode("\n")
    tail_kinds += [PROSE]
    used = 1 + sum(map(len, plan.lines)) + len(tail)
    filler = _prose_slice(rng, length - used, held_out)
    cuts = np.sort(rng.integers(0, len(filler) + 1, len(plan.lines)))
    ids, kinds, begins, before = [_encode("<s>")], [[IGNORED]], [], 0
    position = 1
    for line, cut in zip(plan.lines, cuts):
        part = filler[before:cut]
        ids += [part, line]
        kinds += [[PROSE] * len(part), [IGNORED] * len(line)]
        begins.append(position + len(part))
        position += len(part) + len(line)
        before = cut
    rest = filler[before:]
    position += len(rest)
    whole = np.concatenate([*kinds, [PROSE] * len(rest), tail_kinds]).astype(np.int64)
    for line, token in plan.hints.items():
        whole[begins[line] + len(plan.lines[line])] = -token
    return Sample(
        ids=np.concatenate([*ids, rest, tail]).astype(np.int64),
        kinds=whole,
        answers=tuple((position + a, position + b) for a, b in answers),
        evidence=tuple(tuple(begins[index] for index in lines) for _, _, lines in plan.questions),
    )


def _draw(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, max(low, high) + 1))


def _recall(rng: np.random.Generator, length: int, d: Difficulty) -> _Plan:
    records = _draw(rng, 4, min(d.records, length // 8))
    names = rng.permutation(NAMES)[:records]
    values = rng.choice(VALUES, records)
    asked = rng.permutation(records)[: _draw(rng, 1, min(d.questions, (length - 2 - 3 * records) // 4))]
    return _Plan(
        [_encode("\n", n, v) for n, v in zip(names, values)],
        [(_encode("\n", "?", names[i]), _encode(values[i]), (int(i),)) for i in asked],
    )


def _tracking(rng: np.random.Generator, length: int, d: Difficulty) -> _Plan:
    """Chains: a record and up to `hops` assignments, lines of a chain in order, chains interleaved at random. Hint: every assignment's value."""
    names_at_most = d.records // 2
    chains = _draw(rng, 2, min(names_at_most // (d.hops + 1), length // (8 * (d.hops + 1))))
    names = iter(rng.permutation(NAMES))
    values = rng.choice(VALUES, chains)
    links = [[next(names) for _ in range(1 + _draw(rng, 1, d.hops))] for _ in range(chains)]
    order = rng.permutation([chain for chain, link in enumerate(links) for _ in link])
    lines, done, whereabouts, hints = [], [0] * chains, {}, {}
    trails: list[tuple[int, ...]] = [()] * chains
    for chain in order:
        step = done[chain]
        name = links[chain][step]
        source = values[chain] if step == 0 else links[chain][step - 1]
        if step:
            hints[len(lines)] = _encode(values[chain])[0]
        lines.append(_encode("\n", name, source))
        trails[chain] += (len(lines) - 1,)
        whereabouts[name] = (values[chain], trails[chain])
        done[chain] += 1
    last = [link[-1] for link in links]
    others = [name for link in links for name in link[:-1]]
    room = (length - 2 - 3 * len(lines)) // 4
    asked = [*rng.permutation(last), *rng.permutation(others)][: _draw(rng, 1, min(names_at_most, room))]
    questions = [
        (_encode("\n", "?", n), _encode(whereabouts[n][0]), whereabouts[n][1]) for n in rng.permutation(asked)
    ]
    return _Plan(lines, questions, hints)


def _copying(rng: np.random.Generator, length: int, d: Difficulty) -> _Plan:
    """Named passages of values, no value twice; the questions name them, as many as there is room for."""
    passages = _draw(rng, 2, min(1 + d.distractors, length // 32))
    sizes = [_draw(rng, 3, min(d.copies, length // 16)) for _ in range(passages)]
    values = rng.permutation(VALUES)
    parts = np.split(values[: sum(sizes)], np.cumsum(sizes)[:-1])
    names = rng.permutation(NAMES)[:passages]
    lines = [_encode("\n", "*", name, *part) for name, part in zip(names, parts)]
    room = length - 2 - sum(map(len, lines))
    questions = []
    for i in rng.permutation(passages):
        room -= len(lines[i])
        if room >= 0:
            questions.append((_encode("\n", "*", names[i]), _encode(*parts[i]), (int(i),)))
    return _Plan(lines, questions)


def _counting(rng: np.random.Generator, length: int, d: Difficulty) -> _Plan:
    """Occurrences of a few names, 0 to `counts` each, in any order. Hint: at every occurrence, which one it is."""
    most = min(len(COUNTED), max(2, length // 24))
    names = rng.permutation(COUNTED)[: _draw(rng, 2, most)]
    counts = rng.integers(0, d.counts + 1, len(names))
    while 3 * counts.sum() > length - 3 - 6 * len(names):
        counts[rng.integers(len(names))] = 0
    occurrences = rng.permutation(np.repeat(np.arange(len(names)), counts))
    hints = {
        int(at): _encode(str(n + 1))[0]
        for i in range(len(names))
        for n, at in enumerate(np.flatnonzero(occurrences == i))
    }
    return _Plan(
        [_encode("\n", "+", names[i]) for i in occurrences],
        [
            (
                _encode("\n", "+", "?", names[i]),
                _encode(str(counts[i])),
                tuple(np.flatnonzero(occurrences == i).tolist()),
            )
            for i in rng.permutation(len(names))
        ],
        hints,
    )


def _pairs(rng: np.random.Generator, length: int, d: Difficulty) -> Sample:
    known = _draw(rng, 2, min(d.records, length // 10))
    names = np.array(_encode(*rng.permutation(NAMES)[:known]))
    values = np.array(_encode(*rng.choice(VALUES, known)))
    drawn = rng.integers(0, known, (length - 1) // 2)
    ids = np.full(length, _encode("\n")[0], dtype=np.int64)
    kinds = np.full(length, IGNORED)
    ids[0] = _encode("<s>")[0]
    ids[1 : 1 + 2 * len(drawn)] = np.stack((names[drawn], values[drawn]), 1).ravel()
    first = {int(i): int(np.argmax(drawn == i)) for i in np.unique(drawn)}
    again = np.array([at for at, i in enumerate(drawn) if first[int(i)] < at], dtype=np.int64)
    kinds[2 + 2 * again] = ANSWER
    answers = tuple((int(2 + 2 * at), int(3 + 2 * at)) for at in again)
    return Sample(ids, kinds, answers, tuple((1 + 2 * first[int(drawn[at])],) for at in again))


PLANS: dict[str, Callable[[np.random.Generator, int, Difficulty], _Plan]] = {
    "recall": _recall,
    "tracking": _tracking,
    "copying": _copying,
    "counting": _counting,
}
GRADED = (*PLANS, "pairs")  # what has answers
TASKS = (*GRADED, "text")
SHORTEST = 64


def sample(
    task: str,
    length: int,
    rng: np.random.Generator,
    difficulty: Difficulty | None = None,
    held_out: bool = False,
) -> Sample:
    """Draw one sample of exactly `length` tokens (at least 64)."""
    if task == "text":
        ids = np.concatenate([_encode("<s>"), _prose_slice(rng, length - 1, held_out)]).astype(np.int64)
        kinds = np.full(length, PROSE)
        kinds[0] = IGNORED
        return Sample(ids, kinds, (), ())
    if task == "pairs":
        return _pairs(rng, length, difficulty or Difficulty())
    return _assemble(rng, PLANS[task](rng, length, difficulty or Difficulty()), length, held_out)


def needle(
    length: int, depth: float, rng: np.random.Generator, distractors: int = 3, held_out: bool = True
) -> Sample:
    """Prose with one record at `depth` (0 start, 1 end) and `distractors` others anywhere, and the question for that one at the end."""
    names = rng.permutation(NAMES)[: distractors + 1]
    values = rng.permutation(VALUES)[: distractors + 1]
    lines = [_encode("\n", n, v) for n, v in zip(names, values)]
    tail = [*_encode("\n", "?", names[0]), *_encode(values[0])]
    filler = _prose_slice(rng, length - 1 - 3 * len(lines) - len(tail), held_out)
    cuts = np.array([round(depth * len(filler)), *rng.integers(0, len(filler) + 1, distractors)])
    ids, before, at = [np.array(_encode("<s>"))], 0, 0
    for index in np.argsort(cuts, kind="stable"):
        ids.append(filler[before : cuts[index]])
        if index == 0:
            at = sum(map(len, ids))
        ids.append(np.array(lines[index]))
        before = cuts[index]
    whole = np.concatenate([*ids, filler[before:], tail]).astype(np.int64)
    kinds = np.full(length, PROSE)
    kinds[-1] = ANSWER
    return Sample(whole, kinds, ((length - 1, length),), ((at,),))
