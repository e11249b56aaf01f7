"""Memory without a language model: the extraction prompts answered by spelling and word overlap.

Capitalised words are names, sentences are facts, the first words are the summary, and nothing is ever judged equal or
contradictory. It costs no tokens and invents nothing, so it serves as the floor ("rule-based") of every memory system
and as the mode for machines without a model. It is no substitute for a model's extraction.
"""

import json
import re
from itertools import pairwise

from longspan.context.backends.rule import RuleModel
from longspan.context.chunking import sentences
from longspan.context.prompts import graph, gsw, mem0, memgpt, raptor, scm, zep
from longspan.context.retrieval.bm25 import STOP_WORDS, TOKEN

# A run of capitalised words; the first word of a sentence counts only when it is not a common word.
_NAME = re.compile(r"\b[A-ZÀ-Þ][\w'’-]*(?:\s+[A-ZÀ-Þ][\w'’-]*)*")
_COMMON = STOP_WORDS | frozenset(
    "i i'm im i've yes no hey hi hello wow oh thanks thank great good nice sure well also just not now today yesterday "
    "tomorrow sounds glad congrats really let's lets maybe what's that's it's here's how's don't can't".split()
)


def heuristic_model() -> RuleModel:
    return RuleModel(
        {
            zep.ENTITIES: lambda f: {"entities": [{"name": name} for name in names(f["episode"])]},
            zep.RESOLVE: lambda f: {"resolutions": []},
            zep.FACTS: _facts,
            zep.JUDGE: lambda f: {"duplicates": [], "contradicted": []},
            zep.DATES: lambda f: {"valid_at": f["reference_time"], "invalid_at": None},
            zep.SUMMARY: lambda f: _head(f["facts"], 150),
            zep.MERGE: lambda f: _head(f"{f['first']}\n{f['second']}", 150),
            zep.NAME: lambda f: _head(f["summary"], 8),
            scm.SUMMARISE_TURN: lambda f: _head(f["turn"], 40),
            scm.NEEDS_MEMORY: lambda f: "Yes",
            scm.CAN_ANSWER: lambda f: "Yes" if content(f["text"]) & content(f["question"]) else "No",
            scm.SUMMARISE_BLOCK: lambda f: _head(f["current"], 150),
            scm.SUMMARISE_GROUP: lambda f: _head(f["summaries"], 300),
            graph.NAMES: lambda f: {"names": names(f["passage"])},
            graph.TRIPLES: lambda f: {"triples": _triples(f["passage"])},
            graph.RELEVANT: _relevant,
            graph.CUE: lambda f: "\n".join(_about(f["texts"], f["question"], 5)),
            graph.PROBES: lambda f: {"probes": []},
            graph.FUSE: lambda f: f["findings"],
            graph.READ: _read,
            graph.SUMMARY: lambda f: _first_sentences(f["texts"], 150),
            mem0.EXTRACT: lambda f: {
                "facts": [p for p in _parts(f["message"].split(") ", 1)[-1]) if not p.endswith("?")]
            },
            mem0.DECIDE: lambda f: {"action": "ADD"},
            gsw.COREFERENCE: lambda f: f["text"],
            gsw.SITUATE: lambda f: _head(f["document"], 20),
            gsw.OPERATOR: _scene,
            gsw.SPACETIME: lambda f: {"groups": []},
            gsw.SAME: lambda f: {"same": list(range(len(f["pairs"].splitlines())))},
            gsw.RESOLVE: lambda f: {"answers": []},
            gsw.NAMES: lambda f: {"names": names(f["question"])},
            gsw.SUMMARY: lambda f: f"{f['actor']}: {f['notes']}",
            gsw.ANSWER: lambda f: {"answer": "\n".join(_about(f["summaries"], f["question"], 3))},
            memgpt.MANAGE: lambda f: {
                "tool": "done" if f["log"] or not names(f["message"]) else "archive",
                "text": f["message"],
            },
            memgpt.SEARCH: _search,
            memgpt.SUMMARISE: lambda f: _head(f"{f['summary']}\n{_first_sentences(f['messages'], 60)}", 200),
            raptor.SUMMARY: lambda f: _first_sentences(f["texts"], 100),
        },
        model_id="heuristic",
    )


def names(text: str) -> list[str]:
    """Runs of capitalised words in order of appearance, without common words in front."""
    found: dict[str, None] = {}
    for match in _NAME.finditer(text):
        words = match.group().split()
        while words and words[0].lower() in _COMMON:
            words = words[1:]
        name = " ".join(words).strip("'’-")
        if len(name) > 1:
            found.setdefault(name.removesuffix("'s").removesuffix("’s"))
    return list(found)


def content(text: str) -> set[str]:
    return {word for word in TOKEN.findall(text.lower()) if word not in STOP_WORDS}


def _parts(text: str) -> list[str]:
    return [text[a:b].strip() for a, b in sentences(text) if text[a:b].strip()]


def _facts(fields: dict[str, str]) -> dict:
    """A sentence becomes a fact between the first listed name (the speaker) and each other name in it."""
    listed = json.loads(fields["entities"])
    speaker, _, said = fields["episode"].partition(": ")
    text = said if said and speaker in listed else fields["episode"]
    facts = []
    for sentence in _parts(text):
        inside = [name for name in listed if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sentence)]
        subject = listed[0] if said and speaker in listed else (inside[0] if inside else None)
        others = [name for name in inside if name != subject]
        fact = f"{subject}: {sentence}" if subject not in inside else sentence
        if subject and others:
            facts.append(
                {
                    "source": subject,
                    "target": others[0],
                    "relation": "MENTIONS",
                    "fact": fact,
                    "valid_at": fields["reference_time"],
                }
            )
    return {"facts": facts}


def _triples(text: str) -> list[list[str]]:
    """Neighbouring names of a sentence with the words between them."""
    rows = []
    for sentence in _parts(text):
        found = [
            (m.start(), m.end(), m.group())
            for name in names(sentence)
            for m in [re.search(re.escape(name), sentence)]
            if m
        ]
        found.sort()
        for (_, end, subject), (start, _, thing) in pairwise(found):
            between = " ".join(sentence[end:start].split()[:6]).strip(" ,:;") or "with"
            rows.append([subject, between, thing])
    return rows


def _relevant(fields: dict[str, str]) -> dict:
    wanted = content(fields["question"])
    rows = [line.split(": ", 1) for line in fields["facts"].splitlines()]
    return {"numbers": [int(row[0]) for row in rows if len(row) == 2 and wanted & content(row[1])]}


def _scene(fields: dict[str, str]) -> dict:
    """Names are actors; every sentence that has one is an event which they take part in."""
    found = names(fields["part"])
    events = []
    for sentence in _parts(fields["part"]):
        inside = [name for name in found if name in sentence]
        if inside:
            events.append({"phrase": sentence, "questions": [{"text": "who or what?", "answers": inside}]})
    return {"actors": [{"name": name} for name in found], "events": events}


def _search(fields: dict[str, str]) -> dict:
    """Search the archive, then the messages, then stop."""
    done = fields["log"].count("search_")
    tool = ("search_archive", "search_messages")[done] if done < 2 else "done"
    return {"tool": tool, "text": fields["question"]}


def _about(text: str, question: str, most: int) -> list[str]:
    """The sentences that share most content words with the question, in their order."""
    wanted = content(question)
    scored = [(len(wanted & content(part)), -place, part) for place, part in enumerate(_parts(text))]
    best = sorted((item for item in scored if item[0]), reverse=True)[:most]
    return [part for _, _, part in sorted(best, key=lambda item: -item[1])]


def _read(fields: dict[str, str]) -> str:
    text = "\n".join(fields[name] for name in ("details", "summaries", "timeline", "history"))
    found = _about(text, fields["question"], 1)
    return f"Final answer: {found[0] if found else '*'}"


def _head(text: str, count: int) -> str:
    return " ".join(text.split()[:count])


def _first_sentences(text: str, count: int) -> str:
    """The first sentence of every line, as many as fit `count` words."""
    firsts = [_parts(line)[0] for line in text.splitlines() if line.strip()]
    return _head(" ".join(firsts), count)
