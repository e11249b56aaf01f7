"""The tiny trainer: samples carry their answers, training is deterministic and resumable, checkpoints load anywhere."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from longspan.cli.tiny import app
from longspan.errors import BadInput
from longspan.train import tiny, tiny_model
from longspan.train.tiny_evaluate import evaluate
from longspan.train.tiny_tasks import ANSWER, GRADED, PLANS, TASKS, sample, tokenizer

SHAPE, PLAN = tiny.preset("smoke")


def _solve(task: str, context: str, question: str) -> str:
    """Answer a question from the text alone."""
    name = re.search(r"@[a-z]{2}", question).group()
    if task == "copying":
        return re.search(rf"\n\*{name}((?:=[a-z]{{2}})+)", context).group(1)
    if task == "counting":
        return str(len(re.findall(rf"\n\+{name}", context)))
    while name[0] == "@":
        name = re.findall(rf"\n{name}([@=][a-z]{{2}})", context)[-1]
    return name


@pytest.mark.parametrize("task", list(PLANS))
@pytest.mark.parametrize("length", [64, 200, 1024])
def test_every_answer_follows_from_the_text(task, length):
    rng = np.random.default_rng(length)
    decode = tokenizer().decode
    for _ in range(20):
        drawn = sample(task, length, rng)
        assert len(drawn.ids) == len(drawn.kinds) == length
        first_question = drawn.answers[0][0]
        context = decode(drawn.ids[:first_question])
        answered = 0
        for (a, b), evidence in zip(drawn.answers, drawn.evidence):
            question = decode(drawn.ids[:a]).rsplit("\n", 1)[1]
            assert decode(drawn.ids[a:b]) == _solve(task, context, question)
            assert all(decode(drawn.ids[e : e + 1]) == "\n" for e in evidence)
            answered += b - a
        assert (drawn.kinds == ANSWER).sum() == answered


@pytest.mark.parametrize("task", ["tracking", "counting"])
def test_hints_say_what_a_line_amounts_to(task):
    rng = np.random.default_rng(1)
    decode = tokenizer().decode
    seen = 0
    for _ in range(20):
        drawn = sample(task, 256, rng)
        for at in np.flatnonzero(drawn.kinds < 0):
            before = decode(drawn.ids[:at])
            line = before.rsplit("\n", 1)[1]
            assert decode(-drawn.kinds[at : at + 1]) == _solve(task, before, line)
            seen += 1
    assert seen > 50


def test_a_hint_is_a_target_and_its_token_is_not():
    model = tiny_model.build(SHAPE)
    ids = torch.arange(70, 90).unsqueeze(0)
    kinds = torch.zeros_like(ids)
    kinds[0, 5] = ANSWER
    alone = tiny.losses(model, ids, kinds)[0]
    logits = model(ids).logits[0]
    assert float(alone.detach()) == pytest.approx(
        -float(logits.detach()[4].log_softmax(-1)[ids[0, 5]]), rel=1e-5
    )
    kinds[0, 9] = -123
    hinted = tiny.losses(model, ids, kinds)[0]
    assert float((hinted - alone).detach()) == pytest.approx(
        -float(logits.detach()[8].log_softmax(-1)[123]), rel=1e-4
    )


def test_the_counting_head_starts_with_a_smooth_function_of_the_count():
    shape, plan = tiny.preset("probe")
    model = tiny_model.build(shape, plan.seed).eval()
    model.set_attn_implementation("eager")
    word = tokenizer().get_vocab()
    newline, plus, name = word["Ċ"], word["+"], word["@ba"]
    shares = []
    for n in (1, 2, 4, 6):
        ids = [word["<s>"], *([newline, plus, name] * n), *([newline] * (30 - 3 * n)), plus, name]
        with torch.no_grad():
            attention = model(torch.tensor([ids]), output_attentions=True).attentions[0]
        kv = shape.kv_heads - 1
        head = attention[0, kv * shape.query_heads // shape.kv_heads + 1, -1]
        assert float(head[0] + head[torch.tensor(ids) == name].sum()) > 0.9
        shares.append(float(head[0]))
    assert shares == sorted(shares, reverse=True) and shares[0] > 2 * shares[-1]


def test_text_round_trips_through_the_tokenizer():
    vocabulary = tokenizer()
    assert len(vocabulary) < 512
    for text in ("\n@ba=ke\n?@ba=ke 12", "def f(x=bar): é ≠ 語  two  spaces", "mail@bamboo.org x=ba"):
        assert vocabulary.decode(vocabulary(text)["input_ids"], skip_special_tokens=True) == text
    for task in TASKS:
        ids = sample(task, 128, np.random.default_rng(3)).ids.tolist()
        if task != "text":
            assert vocabulary(vocabulary.decode(ids), add_special_tokens=False)["input_ids"] == ids


def test_training_is_deterministic_and_resumes_exactly(tmp_path):
    tiny.train(SHAPE, PLAN, tmp_path / "whole")
    tiny.train(SHAPE, PLAN, tmp_path / "again")
    with pytest.MonkeyPatch.context() as patch:  # stop after seven steps as a wall-clock limit would
        seen = []
        original = tiny._step

        def counted(*args):
            seen.append(1)
            return original(*args)

        patch.setattr(tiny, "_step", counted)
        patch.setattr(tiny.time, "monotonic", lambda: 61.0 if len(seen) >= 7 else 0.0)
        stopped = tiny.train(SHAPE, PLAN, tmp_path / "parts", minutes=1)
    assert stopped.step == 7
    finished = tiny.train(SHAPE, PLAN, tmp_path / "parts")
    assert finished.step == PLAN.steps
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "again", "parts")]
    assert weights[0] == weights[1] == weights[2]
    with pytest.raises(BadInput, match="seed"):
        tiny.train(SHAPE, replace(PLAN, seed=5), tmp_path / "parts")


def test_training_learns_and_exports_in_half_precision(tmp_path):
    plan = replace(PLAN, steps=40, stages=(64,), mixture={"text": 1.0})
    tiny.train(SHAPE, plan, tmp_path)
    losses = [json.loads(line)["prose_nll"] for line in (tmp_path / tiny.LOG).read_text().splitlines()]
    assert losses[-1] < losses[0] < math.log(len(tokenizer())) - 2  # far below the uniform guess
    model = tiny_model.load_tiny(tmp_path)
    tiny_model.export(model, tmp_path / "half", torch.float16)
    half = tiny_model.load_tiny(tmp_path / "half")
    ids = torch.arange(100).unsqueeze(0)
    with torch.inference_mode():
        assert (model(ids).logits - half(ids).logits).abs().max() < 0.05
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 2.2 * tiny_model.parameters(model)
    scores = evaluate(half, 64, samples=4)
    assert set(scores) == {*PLANS, "text_nll"} and all(0 <= scores[t] <= 1 for t in PLANS)


def test_schedule_and_stages():
    plan = replace(PLAN, steps=1000, warmup=10, decay=0.2, rate=1.0)
    assert tiny.rate_at(plan, 0) == pytest.approx(0.1)
    assert tiny.rate_at(plan, 500) == 1.0
    assert tiny.rate_at(plan, 900) == pytest.approx(0.5)
    progress = tiny.Progress(step=5, accuracy=dict.fromkeys(GRADED, 0.99))
    tiny.advance(plan, progress, 64)
    assert (progress.step, progress.tokens, progress.stage, progress.stage_began) == (6, 64, 1, 6)
    progress.accuracy = dict.fromkeys(GRADED, 0.99)
    tiny.advance(plan, progress, 64)
    assert progress.stage == 1  # the last stage stays
    shape, windowed = tiny.with_window(SHAPE, plan, 300)
    assert shape.window == 300 and windowed.stages == (64, 128, 256, 300)


@pytest.mark.parametrize(
    "shape, plan, message",
    [
        (replace(SHAPE, query_heads=3), PLAN, "do not divide"),
        (SHAPE, replace(PLAN, stages=(16, 64)), "too short"),
        (SHAPE, replace(PLAN, stages=(128, 64)), "ascend"),
        (SHAPE, replace(PLAN, mixture={"recal": 1.0}), "recal"),
    ],
)
def test_bad_input_is_one_sentence(shape, plan, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        tiny.train(shape, plan, tmp_path)


def test_command_line(tmp_path):
    folder = str(tmp_path / "model")
    result = CliRunner().invoke(
        app, ["train", folder, "--preset", "smoke", "--steps", "2", "--window", "100"]
    )
    assert result.exit_code == 0, result.output
    assert "parameters" in result.output
    result = CliRunner().invoke(app, ["evaluate", folder, "--length", "100", "--samples", "2"])
    assert result.exit_code == 0 and "recall" in result.output
    shipped = tmp_path / "shipped"
    result = CliRunner().invoke(app, ["export", folder, str(shipped), "--samples", "2"])
    assert result.exit_code == 0, result.output
    assert set(json.loads((shipped / "facts.json").read_text())["full_cache"]) == {*PLANS, "text_nll"}
