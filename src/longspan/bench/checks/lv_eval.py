"""LV-Eval's check: the construction's properties, the reader from memory, the keyword gate, and what length and confusing facts cost."""

from dataclasses import replace

from longspan.bench.checks._items import mean, must_load, refused, rows
from longspan.bench.checks._readings import accuracy, margin, ranked, readings
from longspan.bench.haystacks import open_haystack
from longspan.bench.item import Item
from longspan.bench.lengths import count_tokens
from longspan.bench.scorers import score
from longspan.bench.tasks.lv_eval import SETS, mixup
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

#: relation, subject, answer as known, its replacement, others of the same relation for confusing facts
FACTS = (
    ("founded the science of motion", "Isaac Newton", "Ilse Brandt"),
    ("first sailed around the southern cape", "Bartolomeu Dias", "Owen Tallis"),
    ("wrote the play about the prince of Denmark", "William Shakespeare", "Rosa Lindqvist"),
    ("painted the lady with the faint smile", "Leonardo da Vinci", "Marta Oyelaran"),
    ("discovered the two radiant metals", "Marie Curie", "Dario Venn"),
    ("led the legions across the Rubicon", "Julius Caesar", "Petra Holm"),
)
OTHERS = ("a cousin of the printer", "an apprentice from the north", "a clerk of the harbour")


def build(number: int, tokens: int, confusing: int, tokenizer) -> Item:
    relation, known, other = FACTS[number]
    sentence = f"It was {known} who {relation}."
    units = open_haystack("prose").units
    places = [(1000 * number + 60 * i) % (len(units) - 12) for i in range(60)]
    return mixup(
        [f"A page of a history book. {sentence} The page ends here."],
        ["".join(units[at : at + 4]).strip() for at in places],
        f"Who {relation}?",
        known,
        target_tokens=tokens,
        tokenizer=tokenizer,
        evidence=(sentence,),
        confusing=[f"Some say that {name} nearly {relation}." for name in OTHERS[:confusing]],
        rules={known: other},
        seed=number,
    )


def choice(item: Item) -> Item:
    """The item with the replaced names of all facts and the confusing subjects to choose from."""
    return replace(item, candidates=tuple(dict.fromkeys((*(f[2] for f in FACTS), *OTHERS[:2]))))


@check(
    "lv-eval",
    system="lv-eval",
    claim="with replaced keywords memory is useless, and the same question gets harder with length and with confusing facts",
    file="src/longspan/bench/tasks/lv_eval.py",
)
def lv_eval(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    levels = {tokens: [build(i, tokens, 0, tokenizer) for i in range(len(FACTS))] for tokens in (320, 900)}
    confused = [build(i, 900, 3, tokenizer) for i in range(len(FACTS))]
    every = [i for items in (*levels.values(), confused) for i in items]
    outcome.must(
        "the question is the same at every level",
        all(a.question == b.question for a, b in zip(*levels.values(), strict=True)),
    )
    outcome.must(
        "the evidence stands exactly once",
        all(i.context.count(t) == 1 for i in every for t in i.evidence_text()),
    )
    outcome.must(
        "the known name is nowhere in the text",
        all(
            f[1] not in i.context
            for items in (*levels.values(), confused)
            for f, i in zip(FACTS, items, strict=True)
        ),
    )
    outcome.must(
        "the length is met",
        all(count_tokens(tokenizer, i.user_text) + 64 <= t + 8 for t, items in levels.items() for i in items),
    )
    outcome.must("a confusing fact that holds the answer is refused", refused(lambda: _leaking(tokenizer)))
    outcome.must(
        "oracle 1, silence 0",
        mean([score(i, i.gold_text) for i in every]) == 1 and mean([score(i, "") for i in every]) == 0,
    )
    outcome.must(
        "a reader from memory scores 0",
        all(score(i, f[1]) == 0 for items in levels.values() for f, i in zip(FACTS, items, strict=True)),
    )
    outcome.must("words around the keyword score 0 without it", all(score(i, i.question) == 0 for i in every))
    sets = {
        f"{name}_16k.jsonl": [
            {
                "input": "谁写了信？" if facts[5] else "Who wrote the letter?",
                "context": "…",
                "answers": ["守塔人写了信" if facts[5] else "the keeper Anna"],
            }
        ]
        for name, facts in SETS.items()
    }
    with rows(sets) as folder:
        must_load(outcome, [f"lv_eval_{name}" for name in SETS], folder, what=" of the published schema")
    short, long, hard = (
        readings(bench, [choice(i) for i in items])["full"] for items in (levels[320], levels[900], confused)
    )
    right = ranked(outcome, "320 tokens", short, [choice(i) for i in levels[320]])
    ranked(outcome, "900 tokens", long, [choice(i) for i in levels[900]])
    ranked(outcome, "900 tokens with three confusing facts", hard, [choice(i) for i in confused])
    outcome.shows(f"the short level is above chance ({right:.2f})", right > 1 / 8)
    outcome.shows(
        f"length makes it harder ({margin(short):.2f} then {margin(long):.2f} nats)",
        margin(long) < margin(short),
    )
    outcome.shows(
        f"confusing facts make it harder ({margin(long):.2f} then {margin(hard):.2f} nats)",
        margin(hard) < margin(long) and accuracy(hard) <= accuracy(long),
    )
    return outcome


def _leaking(tokenizer) -> Item:
    return mixup(
        ["Anna won."],
        ["A day."],
        "Who won?",
        "Anna",
        target_tokens=300,
        tokenizer=tokenizer,
        confusing=["Anna nearly lost."],
    )
