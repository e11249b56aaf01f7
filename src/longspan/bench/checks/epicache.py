"""EpiCache's check: block prefill under a budget, one cache for all topics against one a topic, on needles and on a conversation with known facts.

Questions are never known while reading. Every policy of a table reads in the same blocks and holds the same number of entries at its end; the
caches of four episodes together hold four times that, which the figures say.
"""

import torch

from longspan.bench.checks._common import needle_figures, shows_better
from longspan.bench.conversation_probe import Asked, conversation
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.context.retrieval.embedders import MiniLM
from longspan.engine.session import Session
from longspan.methods.cache.epicache import EpiCache, prompted_scores
from longspan.methods.cache.episodes import Episodes, said

SHARE, BLOCK = 0.25, 256
NEEDLE = "epicache(budget=0.25)"
BASELINES = ("keydiff", "random", "window")


@check(
    "epicache",
    system="epicache",
    claim="one cache a topic, kept by typical pieces of it, answers better than one cache for all under the same budget",
    file="src/longspan/methods/cache/epicache.py",
)
def epicache(bench: Bench) -> Outcome:
    outcome = Outcome()
    others = [f"{name}(budget=0.25, when=chunk)" for name in BASELINES]
    recipes = ["full", NEEDLE, "epicache(budget=0.25, layers=sensitivity)", *others]
    tables = needle_figures(
        bench, recipes, outcome, sides=(False,), samples=min(2, bench.samples), tokens=600
    )
    for haystack in ("filler", "prose"):
        for other in others:
            shows_better(outcome, haystack, tables[haystack, False], NEEDLE, other)
    _talk(bench, outcome)
    _exact(bench, outcome)
    return outcome


def _talk(bench: Bench, outcome: Outcome) -> None:
    """Gold answers after a conversation of four topics: four episodes, one, and other policies at the same budget and block."""
    lm = bench.model()
    utterances, questions = conversation()
    text = "\n".join(said(one) for one in utterances)
    dense = lm.session(chunk=BLOCK).read(text)
    budget = round(SHARE * dense.length)
    options = {"encoder": MiniLM().embed, "medoids": 2, "block": BLOCK}
    many = Episodes(lm, utterances, EpiCache(budget=budget), episodes=4, **options)
    one = Episodes(lm, utterances, EpiCache(budget=budget), episodes=1, **options)
    plain = {
        name: lm.session(f"{name}(budget={budget}, when=chunk)", chunk=BLOCK).read(text) for name in BASELINES
    }
    found = {"full": [_nll(dense, asked) for asked in questions]}
    found["four episodes"] = [_nll(many.session_for(asked.question), asked) for asked in questions]
    found["one episode"] = [_nll(one.sessions[0], asked) for asked in questions]
    found |= {name: [_nll(session, asked) for asked in questions] for name, session in plain.items()}
    mean = {name: sum(values) / len(values) for name, values in found.items()}
    for name, value in mean.items():
        outcome.figures[f"conversation of {dense.length} tokens, nats of an answer: {name}"] = round(value, 2)
    hits = [_topic_of(many, asked.question) == asked.topic for asked in questions]
    outcome.figures["conversation: questions that reach the episode of their topic"] = round(
        sum(hits) / len(hits), 2
    )
    held = sum(session.stats.cache_bytes for session in many.sessions)
    outcome.figures["conversation: bytes of all four caches, share of the full cache"] = round(
        held / dense.stats.cache_bytes, 2
    )
    outcome.shows("more than 80% of the questions reach their episode", sum(hits) > 0.8 * len(hits))
    for name in ("one episode", *BASELINES):
        outcome.shows(
            f"conversation: four episodes beat {name} ({mean['four episodes']:.2f} against {mean[name]:.2f} nats)",
            mean["four episodes"] < mean[name],
        )
    heads = lm.geometry.kv_heads * len(lm.geometry.growing)
    prompts = [len(s.recipe.methods[0].prompt_ids(s)) for s in many.sessions]  # type: ignore[attr-defined]
    outcome.figures["conversation: peak entries a head"] = (
        f"{many.peak_entries // heads} = at most {budget} + {BLOCK} + {max(prompts)}"
    )
    outcome.must(
        "no cache ever holds more than budget, block and prompt",
        many.peak_entries <= (budget + BLOCK + max(prompts)) * heads,
    )
    outcome.must(
        "every cache ends at its budget, exactly",
        all(s.growing_entries() == budget * heads for s in many.sessions),
    )
    again = _nll(many.session_for(questions[0].question), questions[0])
    outcome.must("an answer does not depend on what was asked before", again == found["four episodes"][0])


def _nll(session: Session, asked: Asked) -> float:
    """Nats of the whole answer after the question and the answer's opening."""
    fork = session.fork()
    fork.feed(torch.tensor(fork.question_ids(asked.question, asked.opening)), reading=False)
    return -float(fork.score(fork.model.encode(asked.answer)).sum())


def _topic_of(talk: Episodes, question: str) -> str:
    """The topic that most windows of the question's episode are about."""
    episode = talk.episode_of(question)
    own = [w for w, label in zip(talk.windows, talk.clusters.labels, strict=True) if label == episode]
    topics = ("garden", "travel", "music", "kitchen")
    return max(topics, key=lambda topic: sum(f"about the {topic} again" in w for w in own))


def _exact(bench: Bench, outcome: Outcome) -> None:
    lm = bench.model()
    ids = bench.passage(256)
    dense = lm.session(chunk=64).read(ids)
    before = [dense.layers[i].store.padded().k.clone() for i in dense.growing_layers()]
    prompted_scores(EpiCache(), dense)
    same = all(
        torch.equal(k, dense.layers[i].store.padded().k)
        for k, i in zip(before, dense.growing_layers(), strict=True)
    )
    outcome.must("scoring leaves the cache as it was, to the bit", same and dense.length == len(ids))
    whole = lm.session("epicache(budget=1.0)", chunk=100).read(ids)
    gap = float((whole.next_logits() - dense.next_logits()).abs().max())
    outcome.must("the whole budget is dense reading, at any block", gap < 1e-2)
    short = lm.session("epicache(budget=64, layers=sensitivity)", chunk=64).read(ids)
    entries = [short.layers[i].store.entries // lm.geometry.kv_heads for i in short.growing_layers()]
    outcome.figures["entries a head by sensitivity, smallest and largest layer, mean 64"] = (
        f"{min(entries)} / {max(entries)}"
    )
    outcome.must(
        "layer budgets add up exactly and none is below a quarter",
        short.growing_entries() == 64 * lm.geometry.kv_heads * len(entries) and min(entries) >= 16,
    )
