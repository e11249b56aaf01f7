"""Items answered by an endpoint on the loopback, and judging under the protocol."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longspan.bench import judge as judging
from longspan.bench.endpoint import Price, answer_items, messages_of
from longspan.bench.item import Item
from longspan.bench.results import load, open_run
from longspan.context.backends.endpoint import Endpoint
from longspan.errors import BadInput


def item(i, question=None, answer=None, prefix=""):
    return Item(
        id=f"i{i}", task="t", context=f"The code of room {i} is {1000 + i}.", question=question or f"Code of room {i}?",
        answer_prefix=prefix, answers=(answer or str(1000 + i),), candidates=None, evidence=(), max_new_tokens=8, stop=("\n",),
        seed=i, scorer="containment_any",
    )  # fmt: skip


class Server:
    """A chat endpoint whose behaviour per room is a list of (status, body or None for the right answer)."""

    def __init__(self):
        self.plan, self.requests, self.most, self.now = {}, [], 0, 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                room = re.findall(r"room (\d+)", body["messages"][-1]["content"])[-1]
                with outer.lock:
                    outer.requests.append(body)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                    status, text = (
                        (outer.plan.get(room) or [(200, None)]).pop(0)
                        if outer.plan.get(room)
                        else (200, None)
                    )
                outer.gate.wait(0.05)
                text = text if text is not None else outer.reply(f"It is {1000 + int(room)}.")
                with outer.lock:
                    outer.now -= 1
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.gate = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @staticmethod
    def reply(text):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 25,
            "prompt_tokens_details": {"cached_tokens": 10},
        }
        return json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        )


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def endpoint(server, **options):
    return Endpoint(
        "m", base_url=server.url, sleep=lambda _: None, **{"retries": 2, "timeout": 5.0, **options}
    )


FACTS = {"model": "m", "seed": 0}


def test_concurrent_answers_are_scored_stored_and_resumed(server, tmp_path):
    items = [item(i) for i in range(12)]
    with open_run(tmp_path / "run", FACTS) as results:
        first = answer_items(
            items[:5], endpoint(server), results, concurrency=4, price=Price(2.0, 4.0, cached=1.0)
        )
    assert first.mean == 1.0 and not first.failures and first.calls == 5 and 1 < server.most <= 4
    assert first.usage.prompt_tokens == 100 and first.usage.cached_tokens == 50
    assert first.price.of(first.usage) == pytest.approx((50 * 2 + 50 * 1 + 25 * 4) / 1e6)
    with open_run(tmp_path / "run", FACTS, resume=True) as results:
        second = answer_items(items, endpoint(server), results, concurrency=4)
    assert second.skipped == 5 and second.calls == 7 and len(server.requests) == 12
    rows = load(tmp_path / "run")[1]
    assert len(rows) == 12 and all(row["score"] == 1.0 and row["recipe"] == "endpoint:m" for row in rows)
    assert server.requests[0]["stop"] == ["\n"] and server.requests[0]["max_tokens"] == 8
    assert "5 items answered, 5 calls, 100 prompt tokens (50 cached), 25 reply tokens" in first.cost_line
    assert "USD" in first.cost_line and "5 answered before" in second.cost_line


def test_failed_items_are_listed_and_asked_again_but_never_wrong(server, tmp_path):
    server.plan = {"1": [(500, "{}")] * 3, "2": [(200, "{not json")] * 3, "3": [(429, "{}"), (200, None)]}
    items = [item(i) for i in range(4)]
    with open_run(tmp_path / "run", FACTS) as results:
        report = answer_items(items, endpoint(server), results)
    assert report.mean == 1.0 and set(report.scores) == {"i0", "i3"}
    assert {f.item for f in report.failures} == {"i1", "i2"} and all(f.attempts == 3 for f in report.failures)
    assert "2 failed" in report.cost_line and report.calls == 1 + 2 + 3 + 3
    rows = load(tmp_path / "run")[1]
    assert sorted(row["score"] is None for row in rows) == [False, False, True, True]
    assert all(row["error"] for row in rows if row["score"] is None)
    with open_run(tmp_path / "run", FACTS, resume=True) as results:
        again = answer_items(items, endpoint(server), results)
    assert again.skipped == 2 and set(again.scores) == {"i1", "i2"} and not again.failures


def test_an_endpoint_that_is_down_fails_every_item_in_a_sentence(tmp_path):
    down = Endpoint("m", base_url="http://127.0.0.1:9/v1", retries=0, timeout=2.0, sleep=lambda _: None)
    with open_run(tmp_path / "run", FACTS) as results:
        report = answer_items([item(0)], down, results)
    assert report.mean is None and "cannot be reached" in report.failures[0].error


@pytest.mark.parametrize(
    "body",
    ["null", "[]", '"hello"', '{"hello": 1}', '{"choices": "none"}', '{"choices": ["hello"]}', '{"choices": [{}]}',
     '{"choices": [{"finish_reason": "stop", "message": "hello"}]}', '{"choices": [{"finish_reason": "stop", "message": {"content": [1]}}]}',
     "<html>", '{"choices": [{"mess'],
)  # fmt: skip
def test_an_answer_that_is_no_chat_completion_is_tried_again_and_listed(server, tmp_path, body):
    server.plan["0"] = [(200, body)] * 3
    with open_run(tmp_path / "run", FACTS) as results:
        report = answer_items([item(0), item(1)], endpoint(server), results)
    assert [failure.error.partition(" sent ")[2] for failure in report.failures] == [
        "an answer that is not a chat completion"
    ]
    assert report.failures[0].attempts == 3 and report.mean == 1.0


def test_a_server_that_reports_no_usage_is_used_as_it_is(server, tmp_path):
    choice = {"finish_reason": "stop", "message": {"content": "It is 1000."}}
    server.plan["0"] = [(200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": "many"}}))]
    with open_run(tmp_path / "run", FACTS) as results:
        report = answer_items([item(0)], endpoint(server), results)
    assert report.mean == 1.0 and report.usage.prompt_tokens == 0


def test_a_slow_endpoint_is_given_up_after_its_timeout_and_listed(server, tmp_path):
    slow = endpoint(server, timeout=0.02, retries=1)  # the server takes 0.05 s a reply
    with open_run(tmp_path / "run", FACTS) as results:
        report = answer_items([item(0)], slow, results)
    assert report.mean is None and "did not answer within 0.02 s" in report.failures[0].error
    assert report.failures[0].attempts == 2


def test_prefix_and_settings_change_the_measurement(server, tmp_path):
    assert messages_of(item(0, prefix="The code is"), "Be brief.")[1].content.endswith(
        "Code of room 0?\nThe code is"
    )
    with open_run(tmp_path / "run", FACTS) as results:
        answer_items([item(0)], endpoint(server), results)
        assert answer_items([item(0)], endpoint(server), results).skipped == 1
        assert answer_items([item(0, prefix="x")], endpoint(server), results).skipped == 0
        assert answer_items([item(0)], endpoint(server), results, temperature=1.0).skipped == 0


# -- judging -----------------------------------------------------------------------------------------------------------

ITEMS = [
    item(i, answer=answer)
    for i, answer in enumerate(("a blue lantern", "the harbour bell", "Captain Ines Rowe", "at noon"))
]


def accept_everything(fields):
    return {"reason": "stub", "correct": True}


def reject_everything(fields):
    return {"reason": "stub", "correct": False}


def strict(fields):
    return {"reason": "stub", "correct": fields["reference"] == fields["answer"]}


def test_calibration_publishes_six_figures_and_a_lenient_judge_is_refused():
    good = judging.Judge(judging.stub_judge(strict))
    assert good.calibrate("b", ITEMS) == dict(zip(judging.CALIBRATION, (1.0, 0, 0, 0, 0, 0), strict=True))
    verdicts = good.score_items("b", ITEMS, ["a blue lantern", "x", "", "at noon"], answered_by="other")
    assert [v.value for v in verdicts] == [1.0, 0.0, 0.0, 1.0]
    lenient = judging.Judge(judging.stub_judge(accept_everything))
    assert lenient.calibrate("b", ITEMS)["vague on topic"] == 1.0
    with pytest.raises(BadInput, match="accepts 100% of vague answers"):
        lenient.score_items("b", ITEMS, ["x"] * 4, answered_by="other")
    none = judging.Judge(judging.stub_judge(reject_everything))
    assert none.calibrate("b", ITEMS)["oracle"] == 0.0


def test_the_protocol_is_enforced():
    judge = judging.Judge(judging.stub_judge(judging.keyword_rule))
    with pytest.raises(BadInput, match="not calibrated for b"):
        judge.score_items("b", ITEMS, ["x"] * 4, answered_by="other")
    judge.calibrate("b", ITEMS)
    with pytest.raises(BadInput, match="cannot judge its own answers"):
        judge.score_items("b", ITEMS, ["x"] * 4, answered_by="stub:keyword_rule")
    with pytest.raises(BadInput, match="two items with different golds"):
        judge.calibrate("c", ITEMS[:1])
    assert judge.identity["prompt"].startswith("judge.grade@1:") and judge.identity["decoding"] == "greedy"
    assert judging.Judge(judge.model, revision="r2").identity["id"] != judge.identity["id"]


def test_three_states_count_and_are_reported():
    from longspan.context.backends.rule import RuleModel
    from longspan.context.port import Refused

    def moody(fields):
        if "bell" in fields["answer"]:
            return "yes, surely 1 correct"  # not JSON: never read for a substring
        if "noon" in fields["answer"]:
            raise Refused("declined")
        return {"reason": "ok", "correct": True}

    judge = judging.Judge(RuleModel({judging.GRADE: moody}, model_id="moody"))
    verdicts = [judge.grade("q", "r", reply) for reply in ("fine", "the bell", "noon")]
    assert [v.state for v in verdicts] == ["ok", "unparsed", "refused"] and [v.value for v in verdicts] == [
        1,
        0,
        0,
    ]
    made = judging.rate(verdicts)
    assert (made.n, made.unparsed, made.refused) == (3, 1, 1) and made.value == pytest.approx(1 / 3)
    assert made.low < made.value < made.high
    assert judging.wilson(0, 10)[0] == 0.0 and judging.wilson(50, 100) == pytest.approx(
        (0.4038, 0.5962), abs=1e-4
    )


def test_pairwise_needs_both_orders_to_agree():
    from longspan.context.backends.rule import RuleModel

    def longer(fields):
        return {
            "reason": "longer",
            "better": "first" if len(fields["first"]) > len(fields["second"]) else "second",
        }

    def biased(fields):
        return {"reason": "first", "better": "first"}

    fair = judging.Judge(RuleModel({judging.COMPARE: longer}, model_id="longer"))
    assert (
        fair.compare("q", "r", "long answer", "short").value == 1.0
        and fair.compare("q", "r", "s", "longer").value == 0.0
    )
    partial = judging.Judge(RuleModel({judging.COMPARE: biased}, model_id="biased"))
    assert partial.compare("q", "r", "a", "b").value == 0.5


def test_cached_calls_replay_without_the_model(tmp_path):
    path = tmp_path / "judge.jsonl"
    first = judging.Judge(judging.stub_judge(strict), cache=path)
    assert first.grade("q", "r", "r").value == 1.0
    calls = len(path.read_text().splitlines())
    again = judging.Judge(judging.stub_judge(strict), cache=path)
    again._port.model = None  # a second look needs no model
    assert again.grade("q", "r", "r").value == 1.0 and len(path.read_text().splitlines()) == calls
