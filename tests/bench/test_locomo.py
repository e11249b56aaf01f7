"""LoCoMo's reading and scores on a hand-made conversation in the true schema, with the traps of the released file."""

import json

import pytest

from longspan.bench.locomo import (
    NOT_MENTIONED,
    blocks,
    evidence_of,
    f1,
    gold_of,
    load,
    recall_at,
    score,
    turns,
)
from longspan.errors import BadInput

CHAT = {
    "speaker_a": "Ada",
    "speaker_b": "Bob",
    "session_1_date_time": "1:56 pm on 8 May, 2023",
    "session_1": [
        {"speaker": "Ada", "dia_id": "D1:1", "text": "I painted a lake."},
        {"speaker": "Bob", "dia_id": "D1:2", "text": "Show me!", "blip_caption": "a lake at dawn"},
    ],
    "session_2_date_time": "9:00 am on 1 June, 2023",
    "session_2": [{"speaker": "Ada", "dia_id": "D2:1", "text": "We went camping."}],
    "session_3_date_time": "9:00 am on 1 July, 2023",  # a date without a session, as in the release
}


def test_turns_are_in_order_with_captions_and_times():
    told = turns(CHAT)
    assert [id for id, _ in told] == ["D1:1", "D1:2", "D2:1"]
    assert told[1][1].said == "Bob: Show me! [shares a lake at dawn]"
    assert told[0][1].time.isoformat() == "2023-05-08T13:56:00+00:00" and told[0][1].time < told[1][1].time
    assert [ids for ids, _ in blocks(told)] == [["D1:1", "D1:2"], ["D2:1"]]


def test_malformed_evidence_is_split_and_what_does_not_exist_dropped():
    known = {"D1:1", "D1:2", "D2:1"}
    assert evidence_of({"evidence": ["D1:1; D2:1", "D", "D:1:2", "D9:99", "D1:1"]}, known) == [
        "D1:1",
        "D2:1",
        "D1:2",
    ]
    assert recall_at(["D1:2", "D9:1", "D1:1"], ["D1:1", "D1:2"], 1) == 0.5


@pytest.mark.parametrize(
    ("category", "answer", "said", "value"),
    [
        (4, "a red bike", "The red bikes!", 1.0),
        (4, "a red bike", "red", 2 / 3),
        (2, 2022, "2022", 1.0),
        (1, "pottery, camping", "camping, pottery and clay", (1 + 2 / 3) / 2),
        (3, "Likely yes; she likes art", "likely yes", 1.0),
        (5, None, "It is not mentioned.", 1.0),
        (5, None, "a red bike", 0.0),
        (4, "a red bike", "", 0.0),
    ],
)
def test_scores_by_category(category, answer, said, value):
    qa = {"category": category} | ({} if answer is None else {"answer": answer})
    assert score(said, qa) == pytest.approx(value)
    assert score(gold_of(qa), qa) == pytest.approx(1.0) or category == 3
    assert gold_of({"category": 5}) == NOT_MENTIONED


def test_words_are_compared_without_articles_marks_and_endings():
    assert f1("the 1,200 painted boats", "1200 paint boat and a") == 1.0
    assert f1("theory of an andante", "theory") == pytest.approx(0.5)  # articles only as whole words


def test_a_folder_is_read_with_its_audit_and_a_wrong_one_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no locomo10\.json"):
        load(tmp_path)
    (tmp_path / "locomo10.json").write_text(json.dumps([{"qa": []}, {"qa": []}]))
    assert load(tmp_path)[1] == [set(), set()]
    (tmp_path / "audit_errors.json").write_text(json.dumps([{"question_id": "locomo_1_qa7"}]))
    assert load(tmp_path)[1] == [set(), {7}]
