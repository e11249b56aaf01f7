"""Giraffe's three tasks (Pal et al. 2023, arXiv 2308.10882; code abacusai/Long-Context), rebuilt without their hub data.

longchat_lines: LongChat's lines "line <adjective-noun>: REGISTER_CONTENT is <1..50000>"; one is asked. Score: the first run of digits of the reply is the number.
ffqa: a long page asked for a short fact. Six rows a page: the answer in the first tenth, anywhere, or in the last tenth, times the question before or after
the page (row mod 2 = 1: before; (row mod 6) // 2: first, anywhere, last). Score: presence, the reference as a case-sensitive substring.
altqa: the same with numeric answers, each occurrence of the number replaced in the page, so that remembered facts do not help: a year
(1000 to 2100) by another within 10 of it, any other number by one of as many digits. `metadata["original"]` is what a model that recalled the source would say.

The published pages are Wikipedia's (hub sets WikiQA-Free_Form_QA and -Altered_Numeric_QA); here they are invented towns and people, which no model can have
read, so altqa's alteration is exercised but memory cannot be. Pages are cut at the asked length, not at 2k to 16k.
"""

import re
from random import Random

from longspan.bench import words
from longspan.bench.item import Item
from longspan.bench.task import Maker, Task
from longspan.bench.tasks.ruler_qa import TOWN_ASKS, invented_pages, town_sentences

SOURCE = "Giraffe (Pal et al., 2023), own wording and pages"
LARGEST = 50_000
PLACES = ("first tenth", "anywhere", "last tenth")


# -- LongChat-Lines ---------------------------------------------------------------------------------------------------
def lines(maker: Maker) -> Item:
    def build(units: int) -> Item:
        rng = maker.rng("lines")
        names = words.distinct(lambda: f"{rng.choice(words.ADJECTIVES)}-{rng.choice(words.NOUNS)}", units)
        draw = maker.rng("values")
        values = words.distinct(lambda: str(draw.randint(1, LARGEST)), units)
        share = maker.rng("asked").random() if maker.depth is None else maker.depth
        asked = round(share * (units - 1))
        text = "Each line below has a name and the number in its register. Keep them in mind; one will be asked.\n\n"
        span = (0, 0)
        for number, (name, value) in enumerate(zip(names, values, strict=True)):
            line = f"line {name}: REGISTER_CONTENT is <{value}>"
            if number == asked:
                span = (len(text), len(text) + len(line))
            text += line + "\n"
        return maker.item(
            context=text.rstrip(),
            question=f"What is the REGISTER_CONTENT of line {names[asked]}? Answer with the number alone.",
            answer_prefix=f"The REGISTER_CONTENT of line {names[asked]} is",
            answers=(values[asked],),
            candidates=_candidates(maker, values[asked], [v for v in values if v != values[asked]]),
            evidence=(span,),
        )

    return maker.fit(build, minimum=2)


# -- question answering -----------------------------------------------------------------------------------------------
def pages(maker: Maker) -> Item:
    """One row of ffqa or altqa: `maker.index` chooses its place and the side of its question."""
    numeric = maker.task.name == "altqa"
    place, before = PLACES[maker.index % 6 // 2], maker.index % 2 == 1
    fields = ["year"] if numeric else [field for field in TOWN_ASKS if field != "year"]
    field = maker.rng("field").choice(fields)
    template, sentence = TOWN_ASKS[field]

    def build(units: int) -> Item:
        towns, _ = invented_pages(maker.rng("pool", units), units)
        asked = towns[0]
        order = towns[1:]
        order.insert(_slot(maker, place, len(order)), asked)
        question = template.format(name=asked["name"])
        reply = "Answer the question from the page. Give the answer only."
        head = f"{reply}\n\nQuestion: {question}\n\nPage:\n" if before else f"{reply}\n\nPage:\n"
        text, at = head, 0
        for town in order:
            sentences = town_sentences(town)
            if town is asked:
                at = len(text) + sum(len(one) + 1 for one in sentences[:sentence])
            text += " ".join(sentences) + "\n"
        original = gold = asked[field]
        end = at + len(town_sentences(asked)[sentence])
        if numeric:
            gold = altered(original, maker.rng("altered"), taken={town[field] for town in towns})
            text = replaced(text, original, gold)
            end += len(gold) - len(original)
        others = list(dict.fromkeys(town[field] for town in towns if town[field] not in (gold, original)))
        return maker.item(
            context=text.rstrip(),
            question="Give the answer to the question above." if before else question,
            answer_prefix="Answer:",
            answers=(gold,),
            candidates=_candidates(maker, gold, others, numeric),
            evidence=((at, end),),
            metadata={"original": original, "place": place, "question_before": before},
        )

    return maker.fit(build, minimum=4)


def altered(number: str, rng: Random, taken: set[str]) -> str:
    """Another number by the paper's rule, not among `taken`: within 10 of a year, else of as many digits."""
    value, digits = int(number), len(number)
    if 1000 <= value <= 2100:
        near = [str(value + step) for step in range(-10, 11) if step]
        return rng.choice([one for one in near if one not in taken] or near)
    lowest = 10 ** (digits - 1) if digits > 1 else 0
    drawn = number
    for _ in range(100):  # a full decade of taken numbers must not hang the draw
        drawn = str(rng.randrange(lowest, 10**digits))
        if drawn != number and drawn not in taken:
            break
    return drawn if drawn != number else str(lowest + (value - lowest + 1) % (10**digits - lowest))


def replaced(text: str, number: str, by: str) -> str:
    """`text` with every whole occurrence of `number` replaced."""
    return re.sub(rf"(?<!\d){re.escape(number)}(?!\d)", by, text)


def _slot(maker: Maker, place: str, others: int) -> int:
    if maker.depth is not None:
        return round(maker.depth * others)
    share = maker.rng("slot").random()
    low, high = {"first tenth": (0.0, 0.1), "anywhere": (0.0, 1.0), "last tenth": (0.9, 1.0)}[place]
    return round((low + share * (high - low)) * others)


def _candidates(maker: Maker, gold: str, others: list[str], numeric: bool = True) -> tuple[str, ...]:
    rng = maker.rng("candidates")
    wanted = maker.knobs["candidates"] - 1
    chosen = rng.sample(others, min(wanted, len(others)))
    if numeric and len(chosen) < wanted:
        digits = len(gold)
        chosen += words.distinct(
            lambda: str(rng.randrange(10 ** (digits - 1), 10**digits)),
            wanted - len(chosen),
            {gold, *others},
        )
    found = [gold, *chosen]
    rng.shuffle(found)
    return tuple(found)


def _task(name: str, generate, description: str, scorer: str, tokens: int, **more) -> Task:
    return Task(
        name=name,
        description=description,
        source=SOURCE,
        generate=generate,
        scorer=scorer,
        max_new_tokens=tokens,
        scope="S0",
        knobs={"candidates": 8},
        **more,
    )


TASKS = (
    _task(
        "longchat_lines",
        lines,
        "the number of one line among lines of its kind",
        "first_digits",
        35,
        diffusion="D1",
    ),
    _task(
        "ffqa",
        pages,
        "a short fact of a long page, question before or after it",
        "presence",
        50,
        diffusion="D1",
        verbatim=False,
    ),
    _task(
        "altqa",
        pages,
        "a year that was changed throughout the page",
        "presence",
        50,
        diffusion="D1",
        verbatim=False,
    ),
)
