"""SpecPC's check: does the needle survive in the short prompt, with the question known and not, against spans by chance and the end of the text.

Baselines at the same number of tokens: random sentences, the text's end, and LLMLingua's perplexity filter. The short text is then read and asked.
"""

import random

import torch

from longspan.bench.testbed import LEAD, QUESTION, Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.batch import Work, forward
from longspan.engine.textscore import TextScorer
from longspan.methods.prompt import LLMLingua, RandomUnits, SpecPC, Truncate

SHARE, SAMPLES = 0.25, 3
OURS = SpecPC(window=32, kernel=16, first_layer=8)


@check(
    "specpc",
    system="speckv+specpc",
    claim="what a draft's last queries attend to, with its neighbours, is the prompt that answers",
    file="src/longspan/methods/prompt/specpc.py",
)
def specpc(bench: Bench) -> Outcome:
    outcome, lm = Outcome(), bench.model()
    scorer = TextScorer(lm)
    for haystack in ("filler", "prose"):
        rows: dict[str, list[dict[str, float]]] = {}
        for index in range(min(SAMPLES, bench.samples)):
            prompt = bench.prompt(haystack, index)
            text, needle, number = needle_text(lm, prompt)
            budget = int(SHARE * scorer.count_tokens(text))
            choices = {
                "specpc, question known": OURS.compress(text, QUESTION.strip(), budget, scorer),
                "specpc, not known": OURS.compress(text, "", budget, scorer),
                "llmlingua": LLMLingua().compress(text, "", budget, scorer),
                "random sentences": RandomUnits(seed=index).compress(text, "", budget, scorer),
                "random spans": by_chance(text, budget, scorer, index),
                "the end": Truncate(keep="tail").compress(text, "", budget, scorer),
            }
            for name, out in choices.items():
                assert out.tokens <= budget
                rows.setdefault(name, []).append(
                    {
                        "needle kept": out.holds(*needle),
                        "number kept": float(number in out.text),
                        "tokens of the budget": out.tokens / budget,
                        **asked(lm, out.text, prompt.gold),
                    }
                )
            rows.setdefault("full", []).append(asked(lm, text, prompt.gold))
        table = {
            name: {key: sum(row[key] for row in found) / len(found) for key in found[0]}
            for name, found in rows.items()
        }
        for name, figures in table.items():
            for key, value in figures.items():
                outcome.figures[f"{haystack}: {name}: {key}"] = round(value, 3)
        ours = table["specpc, question known"]
        outcome.shows(f"{haystack}: with the question the number always survives", ours["number kept"] == 1.0)
        for other in ("llmlingua", "random sentences", "random spans", "the end"):
            outcome.shows(
                f"{haystack}: the answer is likelier than after {other} ({ours['nll']:.2f} against {table[other]['nll']:.2f} nats)",
                ours["nll"] < table[other]["nll"],
            )
        outcome.must(
            f"{haystack}: the budget is never exceeded and filled to 95%",
            all(
                0.95 <= r["tokens of the budget"] <= 1.0
                for name in rows
                if name.startswith("specpc")
                for r in rows[name]
            ),
        )
    text, *_ = needle_text(lm, bench.prompt("prose", 0))
    tokens = scorer.count_tokens(text)
    outcome.must(
        "a budget that holds all is the identity", OURS.compress(text, "", tokens, scorer).text == text
    )
    out = OURS.compress(text, "", tokens // 4, scorer)
    outcome.must("the end of the text stays", out.holds(len(text) - 20, len(text)) == 1.0)
    outcome.must(
        "what is kept is in the source, in its order",
        all(out.text[k.out_start : k.out_end] == text[k.start : k.end] for k in out.manifest)
        and all(a.end <= b.start for a, b in zip(out.manifest, out.manifest[1:], strict=False)),
    )
    return outcome


def needle_text(lm, prompt) -> tuple[str, tuple[int, int], str]:
    """The prompt as text, the needle's characters in it, and the number."""
    text = lm.decode(prompt.read.tolist())
    number = lm.decode(prompt.gold.tolist()).strip()
    first = text.index("The special magic number is")
    return text, (first, text.index(".", text.rindex(number))), number


def by_chance(text: str, budget: int, scorer: TextScorer, seed: int):
    """Spans of as many tokens as a neighbourhood, at random places: what the method is without a draft."""
    ours = SpecPC(window=1, kernel=OURS.kernel, draft="nobody")
    rng = random.Random(seed)

    class Chance:
        count_tokens = staticmethod(scorer.count_tokens)

        @staticmethod
        def tail_attention(text, question, draft, rows, **options):
            offsets = scorer.offsets(text)
            return offsets, torch.tensor([[rng.random() for _ in offsets]]).numpy()

    return ours.compress(text, "", budget, Chance())


def asked(lm, text: str, gold: torch.Tensor) -> dict[str, float]:
    """After the text, the question and its opening: nats of the number, and whether every token of it is the likeliest."""
    session = lm.session().feed(torch.tensor(lm.encode(text, special=True) + lm.encode(QUESTION + LEAD)))
    first = session.next_logits()
    (rest,) = forward(lm, [Work(session, gold[:-1], "all")])
    assert rest is not None
    logits = torch.cat((first[None], rest)).log_softmax(-1)
    nats = -float(logits.gather(1, gold.to(logits.device).unsqueeze(1)).sum())
    return {"nll": nats, "em": float(torch.equal(logits.argmax(-1).cpu(), gold))}
