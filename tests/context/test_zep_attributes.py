"""Zep's custom attributes on a rule responder: overlay by time, deletion, cost only where a schema asks, faults."""

import itertools
import re

import pytest
from pydantic import BaseModel
from scripted import Clock, embedder, episode, zep_rules

from longspan.context.backends.faults import Faulty
from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger
from longspan.context.memory.zep import Zep
from longspan.context.memory.zep_schema import ZepKnobs
from longspan.context.prompts import zep as prompts
from longspan.context.stores.base import AsOf, Selector
from longspan.context.stores.sqlite import SqliteStore
from longspan.errors import BadInput


class Person(BaseModel):
    trade: str
    age: int | None = None


KNOBS = ZepKnobs(
    types=(("Entity", "anything else"), ("Person", "a human being")), attributes={"Person": Person}
)
TOLD = [
    episode("Ada is a pilot. Ada is 34 years old. The Harbour is wide.", 0),
    episode("Ada is a baker. Bob is a smith.", 10),
    episode("Ada is 35 years old.", 20, session="late"),
]


def entities(fields):
    people = re.findall(r"(Ada|Bob) is", fields["episode"])
    things = re.findall(r"The (\w+) is", fields["episode"])
    rows = [{"name": n, "entity_type_id": 1} for n in dict.fromkeys(people)]
    return {"entities": rows + [{"name": n, "entity_type_id": 0} for n in things]}


def attributes(fields):
    name, text = fields["entity"], fields["episode"]
    trade, age = re.search(rf"{name} is an? (\w+)", text), re.search(rf"{name} is (\d+) years", text)
    return {"trade": trade and trade[1], "age": age and int(age[1])}


def model(**options):
    rules = zep_rules() | {prompts.ENTITIES: entities, prompts.ATTRIBUTES: attributes}
    return RuleModel(rules | {prompts.FACTS: lambda f: {"facts": []}}, **options)


def memory(told=(), path=":memory:", knobs=KNOBS, **options):
    made = Zep(
        SqliteStore(path), options.pop("model", None) or model(), embedder(), knobs=knobs, clock=Clock()
    )
    done = made.remember("t", list(told), **options)
    assert not done.failed, done.failed
    return made


def known(made):
    """{name: values} of every entity that has some."""
    named = {e.text: made.attributes("t", e.id) for e in made.store.get("t", kind="entity")}
    return {name: values for name, values in named.items() if values}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_later_episodes_win_whatever_the_order_of_telling(order):
    made = memory([TOLD[i] for i in order])
    assert known(made) == {"Ada": {"age": 35, "trade": "baker"}, "Bob": {"trade": "smith"}}
    assert "About Ada: age: 35; trade: baker" in made.recall("t", "Ada", 200).text


def test_what_was_believed_then_is_kept():
    made = memory(TOLD[:1])
    then = made.clock()
    made.remember("t", TOLD[1:])
    (before,) = made.store.get("t", kind="attributes", at=AsOf(recorded=then))
    assert before.text == "Ada: age: 34; trade: pilot" and before.trust == "derived"


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (0, {"Ada": {"age": 35, "trade": "baker"}, "Bob": {"trade": "smith"}}),
        (1, {"Ada": {"age": 35, "trade": "pilot"}}),
        (2, {"Ada": {"age": 34, "trade": "baker"}, "Bob": {"trade": "smith"}}),
    ],
)
def test_forgetting_an_episode_takes_back_what_it_said_and_no_more(gone, left, tmp_path):
    made = memory(TOLD, path=tmp_path / "m.db")
    made.forget("t", Selector(ids=(TOLD[gone].id,)))
    assert known(made) == left
    made.forget("t", Selector(everything=True))
    assert b"baker" not in b"".join(f.read_bytes() for f in tmp_path.iterdir())


def test_only_typed_entities_cost_a_call():
    ledger = Ledger()
    memory(TOLD, ledger=ledger)
    calls = {row["stage"]: row["calls"] for row in ledger.table()}
    assert calls["attributes"] == 4  # Ada three times, Bob once, the harbour never
    plain = Ledger()
    memory(TOLD, knobs=ZepKnobs(types=KNOBS.types), ledger=plain)
    assert "attributes" not in {row["stage"] for row in plain.table()}


def test_nothing_said_changes_nothing_and_answers_outside_the_schema_fail_the_episode_whole():
    made = memory(TOLD)
    made.remember("t", [episode("Ada is here.", 30)])
    assert len(made.store.versions("t", made.store.get("t", kind="attributes")[0].id)) <= 3
    assert known(made)["Ada"] == {"age": 35, "trade": "baker"}
    wrong = model()
    wrong.rules[prompts.ATTRIBUTES] = lambda f: {"shoe": 44}
    made.model = wrong
    done = made.remember("t", [episode("Ada is a sailor.", 40)])
    assert len(done.failed) == 1 and known(made)["Ada"]["trade"] == "baker"
    made.model = Faulty(model(), "truncated_json", when=lambda call: call == 1)
    assert made.remember("t", [episode("Bob is a sailor.", 41)]).failed
    assert known(made)["Bob"]["trade"] == "smith"


def test_a_schema_for_an_unknown_type_is_refused():
    with pytest.raises(BadInput, match="did you mean Entity"):
        ZepKnobs(attributes={"Entty": Person})
