"""RULER's question answering: gold paragraphs among distractor paragraphs "Document i: ...".

The paper takes SQuAD (qa_1, one paragraph) and HotpotQA (qa_2, two paragraphs). Their texts are not shipped here: by default the
paragraphs are a local pool of invented towns and people, which no model can know. qa_1 asks a fact of one town; qa_2 asks a fact
of the person who founded a town. `pool=PATH` reads paragraphs and questions for qa_1 from a SQuAD v1 JSON file instead.
Scorer: any gold contained (as NVIDIA/RULER; lm-evaluation-harness takes the mean over golds).
"""

import json
from functools import cache
from pathlib import Path
from random import Random

from longspan.bench import words
from longspan.bench.item import Item
from longspan.bench.task import Maker, Task
from longspan.errors import BadInput

CRAFTS = "glass boots clocks lace rope paper kites violins lanterns barrels carpets soap cheese bricks pottery candles".split()
INSTRUMENTS = "cello flute harp drum horn lute organ zither fiddle bagpipe oboe trumpet mandolin clarinet banjo gong".split()
STUDIES = "moths tides glaciers comets mosses bridges mirrors volcanoes seashells eclipses orchids fossils magnets owls".split()
DISHES = "plum soup,baked eel,rye dumplings,pear cake,lentil pie,smoked trout,barley pudding,onion bread,walnut stew".split(
    ","
)


def invented_pages(rng: Random, count: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Facts of `count` towns, and of the people who founded them."""
    names = words.separate_names(rng, 5 * count)
    towns, rivers, people, teachers, valleys = (names[i * count : (i + 1) * count] for i in range(5))
    town_rows, people_rows = [], []
    for i in range(count):
        town = {"name": towns[i], "river": rivers[i], "founder": people[i], "craft": rng.choice(CRAFTS)}
        town |= {"dish": rng.choice(DISHES), "year": str(rng.randint(1100, 1890)), "valley": valleys[i]}
        person = {"name": people[i], "instrument": rng.choice(INSTRUMENTS), "study": rng.choice(STUDIES)}
        person |= {"teacher": teachers[i], "age": str(rng.randint(12, 60))}
        town_rows.append(town)
        people_rows.append(person)
    return town_rows, people_rows


def town_sentences(t: dict[str, str]) -> list[str]:
    return [
        f"{t['name']} is a small town in the valley of {t['valley']}.",
        f"It lies on the river {t['river']}.",
        f"The town was founded in {t['year']} by {t['founder']}.",
        f"Its workshops are known for their {t['craft']}.",
        f"Visitors to {t['name']} are usually served {t['dish']}.",
    ]


def _person_text(p: dict[str, str]) -> list[str]:
    return [
        f"{p['name']} was a traveller and letter writer.",
        f"Friends remember that {p['name']} played the {p['instrument']}.",
        f"At the age of {p['age']}, the traveller began to study {p['study']}.",
        f"The teacher of {p['name']} was called {p['teacher']}.",
    ]


TOWN_ASKS = {
    "river": ("On which river does {name} lie?", 1),
    "craft": ("What are the workshops of {name} known for?", 3),
    "dish": ("What are visitors to {name} usually served?", 4),
    "year": ("In which year was {name} founded?", 2),
}
PERSON_ASKS = {
    "instrument": ("Which instrument was played by the person who founded {name}?", 1),
    "teacher": ("What was the name of the teacher of the person who founded {name}?", 3),
}


def generate(maker: Maker) -> Item:
    if maker.knobs.get("pool"):
        return _from_squad(maker, str(maker.knobs["pool"]))
    rng = maker.rng("facts")
    two_hop = maker.task.name == "qa_2"
    field = rng.choice(list(PERSON_ASKS if two_hop else TOWN_ASKS))
    template, sentence = (PERSON_ASKS if two_hop else TOWN_ASKS)[field]

    def build(units: int) -> Item:
        count = units // 2 + 2
        towns, people = invented_pages(maker.rng("pool", count), count)
        target = towns[0]
        gold = (people if two_hop else towns)[0][field]
        docs = [("town", 0, town_sentences(target))] + (
            [("person", 0, _person_text(people[0]))] if two_hop else []
        )
        rest = [("town", i, town_sentences(towns[i])) for i in range(1, count)]
        rest += [("person", i, _person_text(people[i])) for i in range(0 if not two_hop else 1, count)]
        docs += rest[: units + 1]
        evidence_of = {("town", 0): [2 if two_hop else sentence]} | (
            {("person", 0): [sentence]} if two_hop else {}
        )
        values = dict.fromkeys(r[field] for r in (people if two_hop else towns) if r[field] != gold)
        foils = list(values)
        return _document_item(maker, docs, evidence_of, template.format(name=target["name"]), (gold,), foils)

    return maker.fit(build, minimum=3)


def _document_item(maker, docs, evidence_of, question, answers, foils) -> Item:
    order = list(range(len(docs)))
    maker.rng("order").shuffle(order)
    if maker.depth is not None:
        order.remove(0)
        order.insert(round(maker.depth * len(order)), 0)
    text = "Answer the question from the documents below. Give the answer only.\n\n"
    spans: dict[tuple[str, int, int], tuple[int, int]] = {}
    for place, index in enumerate(order, 1):
        kind, number, sentences = docs[index]
        text += f"Document {place}: "
        for i, sentence in enumerate(sentences):
            if i in evidence_of.get((kind, number), ()):
                spans[(kind, number, i)] = (len(text), len(text) + len(sentence))
            text += sentence + (" " if i + 1 < len(sentences) else "\n\n")
    rng = maker.rng("candidates")
    wrong = rng.sample(foils, min(len(foils), maker.knobs["candidates"] - 1))
    candidates = [answers[0], *wrong]
    rng.shuffle(candidates)
    evidence = [spans[(kind, number, i)] for (kind, number), wanted in evidence_of.items() for i in wanted]
    return maker.item(
        context=text.rstrip(),
        question=question,
        answer_prefix="Answer:",
        answers=tuple(answers),
        candidates=tuple(candidates) if len(candidates) > 1 else None,
        evidence=tuple(evidence),
        haystack=None,
        metadata={"chained": len(evidence) > 1},
    )


@cache
def read_squad(path: str) -> tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]:
    """(paragraph, ((question, answers), ...)) of a SQuAD v1 JSON file."""
    if not Path(path).is_file():
        raise BadInput(f"no paragraph pool at {path}: give the path of a SQuAD v1 JSON file")
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        return tuple(
            (
                p["context"],
                tuple(
                    (q["question"], tuple(a["text"] for a in q["answers"])) for q in p["qas"] if q["answers"]
                ),
            )
            for article in raw["data"]
            for p in article["paragraphs"]
        )
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} is not in SQuAD v1's schema (data, paragraphs, context, qas, answers): {error!r}"
        ) from None


def _from_squad(maker: Maker, path: str) -> Item:
    pool = read_squad(path)
    rng = maker.rng("squad")
    asked = rng.choice([i for i, (_, questions) in enumerate(pool) if questions])
    question, answers = rng.choice(pool[asked][1])
    others = [i for i in range(len(pool)) if i != asked]
    rng.shuffle(others)
    gold_text = pool[asked][0]
    foils = list(dict.fromkeys(q[1][0] for i in others[:60] for q in pool[i][1] if q[1][0] not in answers))

    def build(units: int) -> Item:
        docs = [("gold", 0, [gold_text])] + [("other", i, [pool[i][0]]) for i in others[:units]]
        return _document_item(maker, docs, {("gold", 0): [0]}, question, answers, foils)

    return maker.fit(build, maximum=len(others))


def _task(name: str, description: str, diffusion: str) -> Task:
    return Task(
        name=name,
        description=description,
        source="RULER (Hsieh et al., COLM 2024), own paragraph pool",
        generate=generate,
        scorer="containment_any",
        max_new_tokens=32,
        scope="S0" if name == "qa_1" else "S1",
        diffusion=diffusion,
        knobs={"candidates": 8, "pool": None} if name == "qa_1" else {"candidates": 8},
    )


TASKS = (
    _task("qa_1", "a fact of one paragraph among many of its kind", "D1"),
    _task("qa_2", "a fact that takes two paragraphs", "D2"),
)
