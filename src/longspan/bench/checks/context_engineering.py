"""The survey of context engineering: what its formal part asks of an assembled prompt, as properties of the packer, and what its order is worth.

The survey writes a prompt as an assembly of parts (instructions, tools, knowledge, memory, state, query) under a length limit and gives no
algorithm; the packer is one. Exact, over random parts and windows: the limit, mandatory parts verbatim, a manifest that reads back, nothing
lost in a larger window, and the same first bytes for the same stable parts. Measured on the model: how many tokens of a second prompt are
found read when the stable parts stand first, and when the query does.
"""

import random
from itertools import pairwise

from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.context.backends.local import Local
from longspan.context.packer import MANDATORY, Packed, Segment, pack
from longspan.context.port import Message, OverLong, count_words

TRIALS = 200
FOUND = 6  # parts of a prompt beside instructions, tools and query
WORDS = "river clock bread glass tower wind letter stone field lamp".split()
KINDS = ("know", "mem", "state")


@check(
    "context-engineering",
    system="survey-context-engineering",
    claim="a prompt assembled from parts keeps its limit, its instructions and the way back to every source; stable parts first lets the next "
    "prompt reuse what was read",
    file="src/longspan/context/packer.py",
)
def context_engineering(bench: Bench) -> Outcome:
    outcome = Outcome(figures={"random prompts": TRIALS})
    rng = random.Random(0)
    held = dict.fromkeys(
        (
            "a prompt never exceeds window less reserve",
            "instructions, tools and query are kept verbatim, and a window too small for them is refused",
            "the manifest's spans read back as the parts, and its tokens add up",
            "a large window drops nothing",
            "a larger window never loses a part that a smaller one kept",
            "the same stable parts give the same first bytes",
        ),
        True,
    )
    fits, verbatim, back, whole, rising, stable = held
    for _ in range(TRIALS):
        parts = _parts(rng)
        needed = [part for part in parts if part.kind in MANDATORY]
        least = count_words("\n\n".join(part.text for part in needed))
        window, more, reserve = least + rng.randrange(60), rng.randrange(40), rng.randrange(5)
        small = pack(parts, window + reserve, reserve=reserve)
        large = pack(parts, window + reserve + more, reserve=reserve)
        held[fits] &= small.tokens == count_words(small.text) <= window
        held[verbatim] &= all(part.text in small.text for part in needed) and _refused(parts, least - 1)
        held[back] &= _reads_back(small, parts)
        held[whole] &= not pack(parts, 10_000).dropped
        held[rising] &= {part.text for part in large.dropped} <= {part.text for part in small.dropped}
        other = [part for part in parts if part.kind not in ("know", "mem")] + _found(rng)
        held[stable] &= pack(other, 10_000).text.startswith(_stable(parts))
    for sentence, holds in held.items():
        outcome.must(sentence, holds)
    _reuse(outcome, Local(bench.model()))
    return outcome


def _parts(rng: random.Random) -> list[Segment]:
    parts = [
        Segment("instr", f"Follow the rules: {_text(rng)}."),
        Segment("tools", f"Tools: {_text(rng)}."),
        Segment("query", f"What about {_text(rng)}?"),
    ]
    return rng.sample(parts + _found(rng), len(parts) + FOUND)


def _found(rng: random.Random) -> list[Segment]:
    return [
        Segment(rng.choice(KINDS), f"{place}: {_text(rng)}", rng.random(), rng.random(), (f"s{place}",))
        for place in range(FOUND)
    ]


def _text(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 12)))


def _stable(parts: list[Segment]) -> str:
    """Instructions and tools, as they open every prompt with them."""
    return "\n\n".join(part.text for kind in ("instr", "tools") for part in parts if part.kind == kind)


def _refused(parts: list[Segment], window: int) -> bool:
    try:
        pack(parts, window)
    except OverLong:
        return True
    return False


def _reads_back(packed: Packed, parts: list[Segment]) -> bool:
    known = {(part.kind, part.text, part.sources) for part in parts}
    entries = packed.manifest
    told = all((e.kind, packed.text[e.start : e.end], e.sources) in known for e in entries)
    return told and all(a.end <= b.start and a.token_end <= b.token_start for a, b in pairwise(entries))


def _reuse(outcome: Outcome, local: Local) -> None:
    """Share of a second prompt's tokens found read: same rules and document, another query."""
    rng = random.Random(1)
    rules = Segment("instr", "Answer from the document. " + " ".join(_text(rng) for _ in range(12)))
    document = Segment("know", " ".join(_text(rng) for _ in range(20)), cacheable=True)
    queries = [Segment("query", f"What about the {word}?") for word in ("river", "clock")]
    first = [pack([query, document, rules], 10_000).text for query in queries]
    last = ["\n\n".join((query.text, document.text, rules.text)) for query in queries]
    shares = {}
    for what, (one, two) in (("stable parts first", first), ("query first", last)):
        local.complete([Message("user", one)], max_tokens=1)
        usage = local.complete([Message("user", two)], max_tokens=1).usage
        shares[what] = usage.cached_tokens / usage.prompt_tokens
        outcome.figures[f"{what}: tokens of the second prompt found read"] = (
            f"{usage.cached_tokens} of {usage.prompt_tokens}"
        )
    outcome.shows(
        "stable parts first: most of the second prompt is not read again",
        shares["stable parts first"] > 0.8 > shares["query first"],
    )
