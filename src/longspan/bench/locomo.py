"""LoCoMo: two people chat over months, questions name the turns that answer them. Reading the data, published scores, evidence recall.

Source: "Evaluating Very Long-Term Conversational Memory of LLM Agents" (ACL 2024), snap-research/locomo (CC BY-NC 4.0; read from a
folder, never copied); wrong golds from dial481/locomo-audit. Scores: token F1 after lower case, no punctuation, no articles and "and", Porter
stems. Category 1 splits both sides at commas and takes the best match of every gold part; category 3 cuts the gold at its first semicolon;
category 5 (adversarial, never pooled with the others) asks for "not mentioned" or "no information available". Many projects swap the names
of categories 1, 3 and 4, so only their numbers are used here. The stemmer is Snowball's "porter"; the published code uses NLTK's, which
differs on a few short words (unverified here).
Traps of the data: category 5 mostly has no `answer`; some golds are numbers; nine evidence entries are malformed; date keys exist for
sessions that do not.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from longspan.context.memory.base import Episode
from longspan.context.port import count_words
from longspan.errors import BadInput

BLOCK_TOKENS = 100
ANSWERABLE, ADVERSARIAL = (1, 2, 3, 4), 5
NOT_MENTIONED = "Not mentioned in the conversation"
_DENIALS = ("no information available", "not mentioned")
_DROPPED = re.compile(r"\b(?:a|an|the|and)\b")


def load(folder: Path) -> tuple[list[dict[str, Any]], list[set[int]]]:
    """The conversations under `folder`, and for each the numbers of its questions with a wrong gold."""
    found = next((p for p in (folder / "locomo10.json", folder / "locomo6.json") if p.exists()), None)
    if found is None:
        raise BadInput(f"there is no locomo10.json under {folder}; put LoCoMo's data there")
    conversations = json.loads(found.read_text(encoding="utf-8"))
    audit = folder / "audit_errors.json"
    ids = (
        [row["question_id"] for row in json.loads(audit.read_text(encoding="utf-8"))]
        if audit.exists()
        else []
    )
    wrong = [
        {int(id.split("_qa")[1]) for id in ids if id.startswith(f"locomo_{number}_")}
        for number in range(len(conversations))
    ]
    return conversations, wrong


def turns(conversation: dict[str, Any]) -> list[tuple[str, Episode]]:
    """(dialogue id, episode) of every turn; pictures are their captions, times the session's plus a second a turn."""
    made = []
    numbers = sorted(int(key.split("_")[1]) for key in conversation if re.fullmatch(r"session_\d+", key))
    for number in numbers:
        said = conversation[f"session_{number}_date_time"]
        start = datetime.strptime(said, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC).timestamp()
        for place, turn in enumerate(conversation[f"session_{number}"]):
            text = turn["text"] + (f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else "")
            when = datetime.fromtimestamp(start + place, UTC)
            made.append((turn["dia_id"], Episode(text, when, turn["speaker"], f"session {number}")))
    return made


def blocks(told: Sequence[tuple[str, Episode]]) -> list[tuple[list[str], Episode]]:
    """Consecutive turns of a session as passages of about `BLOCK_TOKENS`, for document-order RAG."""
    made: list[tuple[list[str], list[Episode]]] = []
    for id, episode in told:
        size = sum(count_words(e.said) for e in made[-1][1]) if made else 0
        fits = (
            made
            and made[-1][1][0].session == episode.session
            and size + count_words(episode.said) <= BLOCK_TOKENS
        )
        if not fits:
            made.append(([], []))
        made[-1][0].append(id)
        made[-1][1].append(episode)
    return [
        (ids, replace(group[0], text="\n".join(e.said for e in group), speaker="")) for ids, group in made
    ]


def evidence_of(qa: dict[str, Any], known: set[str]) -> list[str]:
    """Dialogue ids of the gold evidence that exist in the conversation."""
    found = [f"D{a}:{b}" for a, b in re.findall(r"D:?(\d+):(\d+)", " ".join(qa["evidence"]))]
    return [id for id in dict.fromkeys(found) if id in known]


def gold_of(qa: dict[str, Any]) -> str:
    """The gold answer as text; of category 5 that nothing is said about it."""
    return NOT_MENTIONED if qa["category"] == ADVERSARIAL else str(qa["answer"])


def score(prediction: str, qa: dict[str, Any]) -> float:
    """The published score of one answer, 0 to 1."""
    match qa["category"]:
        case 5:
            return float(any(denial in prediction.lower() for denial in _DENIALS))
        case 1:
            golds, said = gold_of(qa).split(","), prediction.split(",")
            return sum(max(f1(part, gold) for part in said) for gold in golds) / len(golds)
        case 3:
            return f1(prediction, gold_of(qa).split(";")[0].strip())
        case _:
            return f1(prediction, gold_of(qa))


def f1(prediction: str, gold: str) -> float:
    """F1 of two bags of normalised, stemmed words; 0 where either is empty."""
    said, wanted = Counter(normalised(prediction)), Counter(normalised(gold))
    shared = (said & wanted).total()
    return 2 * shared / (said.total() + wanted.total()) if shared else 0.0


@cache
def _stem():
    try:
        import Stemmer
    except ImportError as error:
        raise BadInput("LoCoMo's score needs `pip install PyStemmer`") from error
    return Stemmer.Stemmer("porter").stemWord


def normalised(text: str) -> list[str]:
    """Words as the score compares them."""
    text = "".join(c for c in text.replace(",", "").lower() if c not in string.punctuation)
    return [_stem()(word) for word in _DROPPED.sub(" ", text).split()]


def recall_at(ranking: Sequence[str], evidence: Sequence[str], k: int) -> float:
    """Share of the evidence among the first k of a ranking of dialogue ids."""
    return len(set(ranking[:k]) & set(evidence)) / len(evidence)
