"""The port: parsing, repair, typed failures, ledger and limits, rules, faults, recordings, the endpoint client."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from longspan.context.backends.endpoint import Endpoint
from longspan.context.backends.faults import FAULTS, Faulty
from longspan.context.backends.recorded import Recorded
from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger, Limits, Metered
from longspan.context.port import (
    ChatModel,
    InvalidJson,
    LimitReached,
    Message,
    OverLong,
    PortError,
    RateLimited,
    Refused,
    Truncated,
    Unavailable,
    Usage,
    scoring,
)
from longspan.context.prompts import Prompt
from longspan.context.security import sanitise
from longspan.errors import BadInput

EXTRACT = Prompt("test.extract", 1, "Extract the names.", ("earlier", "text"))


class Names(BaseModel):
    names: list[str] = []
    best_id: int = 0


def namer(**options):
    rule = {EXTRACT: lambda f: {"names": f["text"].split(), "best_id": 1}}
    return RuleModel(rule, **options)


def ask(model, text="Ada Bob"):
    return model.complete(EXTRACT.render(earlier="", text=text), schema=Names)


def test_a_rule_reads_the_fields_and_its_json_is_validated():
    model = namer()
    assert isinstance(model, ChatModel)
    done = ask(model)
    assert done.parsed == Names(names=["Ada", "Bob"], best_id=1)
    assert done.repairs == 0 and done.usage.prompt_tokens > 0
    assert model.calls == ["test.extract"]


@given(earlier=st.text(), text=st.text(alphabet="<>/\\texarlie\n ") | st.text())
def test_data_cannot_close_its_fence(earlier, text):
    messages = EXTRACT.render(earlier=earlier, text=text)
    assert EXTRACT.fields(messages) == {"earlier": sanitise(earlier), "text": sanitise(text)}
    assert messages[1].content.count("</text>") == 1


def test_prompt_id_changes_with_wording_and_version():
    assert Prompt("a.b", 1, "x", ("t",)).id != Prompt("a.b", 1, "y", ("t",)).id
    assert Prompt("a.b", 2, "x", ("t",)).id.startswith("a.b@2:")


EXPECTED = {
    "truncated_json": Truncated,
    "schema_echo": InvalidJson,
    "empty": InvalidJson,
    "refusal": Refused,
    "rate_limited": RateLimited,
    "timeout": Unavailable,
    "prompt_echo": InvalidJson,
    "over_long": OverLong,
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_every_fault_ends_typed_or_parsed(fault):
    model = Faulty(namer(), fault)
    if fault in EXPECTED:
        with pytest.raises(EXPECTED[fault]) as caught:
            ask(model)
        assert isinstance(caught.value, BadInput) and "\n" not in str(caught.value)
    else:
        parsed = ask(model).parsed
        assert parsed.best_id == (100_001 if fault == "wrong_ids" else 1)
        assert len(parsed.names) == (4 if fault == "duplicate" else 2)


@pytest.mark.parametrize("fault", ["schema_echo", "empty", "prompt_echo"])
def test_one_bad_answer_is_repaired_once_and_its_cost_is_counted(fault):
    clean = ask(namer())
    done = ask(Faulty(namer(), fault, when=lambda call: call == 0))
    assert done.parsed == clean.parsed
    assert (done.repairs, done.attempts) == (1, 2)
    assert done.usage.prompt_tokens > clean.usage.prompt_tokens


def test_a_mapping_schema_is_validated_too():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    good = RuleModel(fallback=lambda m, p: 'Sure:\n```json\n{"n": 3}\n```')
    assert good.complete([Message("user", "?")], schema=schema).parsed == {"n": 3}
    bad = RuleModel(fallback=lambda m, p: {"n": "three"})
    with pytest.raises(InvalidJson, match="n breaks the rule"):
        bad.complete([Message("user", "?")], schema=schema)


def test_ledger_counts_stages_apart_and_limits_are_exact():
    ledger = Ledger(Limits(calls=3))
    ingest = Metered(namer(), ledger, "ingest", "extract")
    ask(ingest)
    ask(Metered(namer(), ledger, "query").at("reader"))
    ask(ingest)
    with pytest.raises(LimitReached, match="3 model calls"):
        ask(ingest)
    rows = {(row["operation"], row["stage"]): row["calls"] for row in ledger.table()}
    assert rows == {("ingest", "extract"): 2, ("query", "reader"): 1}
    assert ledger.total("ingest").calls == 2 and ledger.total().calls == 3


def test_ledger_counts_failures_depth_time_and_tokens():
    now = [0.0]
    ledger = Ledger(Limits(depth=1, seconds=5, tokens=10_000), clock=lambda: now[0])
    with pytest.raises(InvalidJson):
        ask(Metered(Faulty(namer(), "empty"), ledger, "ingest", "extract"))
    assert ledger.rows["ingest", "extract"].failures == 1
    assert ledger.rows["ingest", "extract"].calls == 2
    with ledger.deeper(), pytest.raises(LimitReached, match="recursion"), ledger.deeper():
        pass
    with ledger.timed("query", "search"):
        now[0] += 6
    assert ledger.rows["query", "search"].seconds == 6
    with pytest.raises(LimitReached, match="5 seconds"):
        ask(Metered(namer(), ledger, "query"))


def test_scoring_is_refused_without_log_probabilities():
    with pytest.raises(BadInput, match="needs token log-probabilities"):
        scoring(namer(), "attribution")


def test_recording_replays_exactly_and_a_miss_is_an_error(tmp_path):
    path = tmp_path / "calls.jsonl"
    live = namer(model_id="strong")
    first = ask(Recorded(path, live))
    before = path.read_bytes()
    assert ask(Recorded(path, live)) == first and path.read_bytes() == before
    replay = Recorded(path)
    assert replay.model_id == "strong" and ask(replay) == first
    with pytest.raises(Unavailable, match="holds no complete call"):
        ask(replay, "Eve")
    with pytest.raises(Unavailable):
        replay.complete(EXTRACT.render(earlier="", text="Ada Bob"), schema=Names, seed=7)


def test_recorded_failures_replay_as_failures_and_bad_files_are_refused(tmp_path):
    path = tmp_path / "calls.jsonl"
    with pytest.raises(RateLimited):
        ask(Recorded(path, Faulty(namer(), "rate_limited")))
    with pytest.raises(RateLimited):
        ask(Recorded(path))
    path.write_text("not json\n")
    with pytest.raises(BadInput, match="line 1"):
        Recorded(path)
    with pytest.raises(BadInput, match="no recording"):
        Recorded(tmp_path / "none.jsonl")


class _Server(BaseHTTPRequestHandler):
    """Plays a scripted list of (status, body, headers); records what was asked."""

    script: list
    asked: list

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        status, body, headers = self.script.pop(0)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def answer(text, finish="stop", refusal=None):
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 5},
    }
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


@pytest.fixture
def served():
    handler = type("Handler", (_Server,), {"script": [], "asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    waits = []
    url = f"http://127.0.0.1:{server.server_port}/v1"
    yield handler, Endpoint("m", base_url=url, api_key="k", retries=2, sleep=waits.append), waits
    server.shutdown()
    server.server_close()


def error(message="no"):
    return {"error": {"message": message, "type": "x"}}


def test_endpoint_sends_the_schema_and_reports_usage(served):
    handler, endpoint, _ = served
    handler.script += [(200, answer('{"names": ["Ada"]}'), {})]
    done = endpoint.complete([Message("user", "hi")], schema=Names, stop=["\n\n"], seed=3, max_tokens=50)
    assert done.parsed.names == ["Ada"] and done.usage == Usage(9, 4, 5)
    body = handler.asked[0]
    assert body["response_format"]["json_schema"]["schema"]["properties"].keys() == {"names", "best_id"}
    assert (body["seed"], body["stop"], body["max_tokens"], body["temperature"]) == (3, ["\n\n"], 50, 0.0)


def test_endpoint_retries_with_backoff_then_fails_typed(served):
    handler, endpoint, waits = served
    handler.script += [(429, error(), {"retry-after": "7"}), (503, error(), {}), (200, answer("ok"), {})]
    done = endpoint.complete([Message("user", "hi")])
    assert (done.text, done.attempts, waits) == ("ok", 3, [7.0, 2.0])
    handler.script += [(429, error(), {})] * 3
    with pytest.raises(RateLimited, match="after 3 attempts"):
        endpoint.complete([Message("user", "hi")])


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, error(), Unavailable),
        (404, error(), Unavailable),
        (400, error("maximum context length is 8192 tokens"), OverLong),
        (400, error("bad"), Unavailable),
        (200, answer("", "content_filter"), Refused),
        (200, answer(None, refusal="no"), Refused),
        (200, answer('{"names": ["A', "length"), Truncated),
        (200, {**answer("x"), "choices": []}, Unavailable),
    ],
)
def test_endpoint_failures_are_typed_without_retry(served, status, body, expected):
    handler, endpoint, waits = served
    handler.script += [(status, body, {})]
    with pytest.raises(expected):
        endpoint.complete([Message("user", "hi")], schema=Names)
    assert waits == []


def test_endpoint_repairs_malformed_json_once(served):
    handler, endpoint, _ = served
    handler.script += [(200, answer("{names: Ada"), {}), (200, answer('{"names": ["Ada"]}'), {})]
    done = endpoint.complete([Message("user", "hi")], schema=Names)
    assert done.parsed.names == ["Ada"] and done.repairs == 1 and done.usage.prompt_tokens == 18
    assert "could not be used" in handler.asked[1]["messages"][-1]["content"]
    handler.script += [(200, answer("{"), {}), (200, answer("{"), {})]
    with pytest.raises(InvalidJson):
        endpoint.complete([Message("user", "hi")], schema=Names)


def test_endpoint_down_garbage_and_missing_key(monkeypatch, served):
    down = Endpoint("m", base_url="http://127.0.0.1:9/v1", retries=1, sleep=lambda s: None)
    with pytest.raises(Unavailable, match="cannot be reached"):
        down.complete([Message("user", "hi")])
    handler, endpoint, _ = served
    handler.script += [(200, b"<html>", {})] * 3
    with pytest.raises(PortError):
        endpoint.complete([Message("user", "hi")])
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("LONGSPAN_API_KEY", raising=False)
    with pytest.raises(BadInput, match="no API key"):
        Endpoint("m")
