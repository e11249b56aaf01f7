"""LongCodeZip: drop functions that do not help to predict the query, then keep the best blocks of the rest.

Source: "LongCodeZip: Compress Long Context for Code Language Models" (ASE 2025); code YerbaPage/LongCodeZip.
Coarse: a function c is worth NLL(q) - NLL(q | c), the approximated mutual information (the paper subtracts perplexities:
same order for one query, worse numerics). Functions enter in that order until budget / fine_ratio + slack is spent.
Fine: per kept function of at least `min_lines` lines a keep ratio r = clamp(R (1 + beta (2 s - 1)), 0, 1), s the min-max
normalised worth, R the share of lines left; blocks end at perplexity peaks; definition, comment and return blocks always
stay; the rest is a 0/1 knapsack with value NLL(q) - NLL(q | block) and tokens as weight. Gaps become "..." comments.
Differences to the code: Python is cut by its parser and methods keep their class header; one forward a function instead of
one a line; the ratio the coarse stage computes is used; the query is scored at all its tokens; a function whose cut no
longer parses is kept whole; the budget is exact (the code lets one function, markers and kept blocks overflow it).
"""

from dataclasses import dataclass, replace

import numpy as np

from longspan.engine.method import PromptMethod, Source
from longspan.engine.prompt import Compressed, Scorer
from longspan.engine.registry import register
from longspan.errors import BadInput, nearest
from longspan.methods.prompt.base import CountedScorer, Span, Unit, checked, fit, whole
from longspan.methods.prompt.code import (
    LANGUAGES,
    TEXT,
    always_kept,
    blocks,
    class_header,
    comment,
    detect,
    functions,
    knapsack,
    line_surprise,
    parses,
    rows_of,
)
from longspan.methods.prompt.llmlingua import take


@register("longcodezip")
@dataclass(frozen=True)
class LongCodeZip(PromptMethod):
    """Knobs: `language` (python, javascript, java, c, rust, go, text, or auto: by the look of the lines); coarse `slack` tokens; `fine_ratio` of lines kept in the fine stage (1 = functions only); `beta` tilt
    towards worthy functions; `min_lines` below which a function is whole; boundary factor `k`; `value` of a block,
    "conditional" or "contrastive" (NLL(b | before) - NLL(b | q, before))."""

    source = Source("https://arxiv.org/abs/2510.00446", 2025, "https://github.com/YerbaPage/LongCodeZip")
    aware = True
    system = "longcodezip"

    language: str = "auto"
    slack: int = 100
    fine_ratio: float = 0.8
    beta: float = 0.5
    min_lines: int = 5
    k: float = 0.2
    value: str = "conditional"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in ("auto", *LANGUAGES):
            raise BadInput(
                f"longcodezip knows no language {self.language!r}; {nearest(self.language, ('auto', *LANGUAGES))}"
            )

    def compress(self, text: str, question: str, budget_tokens: int, scorer: Scorer) -> Compressed:
        checked(text, budget_tokens)
        if self.language == "auto":
            return replace(self, language=detect(text)).compress(text, question, budget_tokens, scorer)
        counted = CountedScorer(scorer)
        if identity := whole(text, budget_tokens, counted, self.name):
            return identity
        chunks = functions(text, self.language)
        counted.prefetch([("", question), *((text[slice(*span)] + "\n\n", question) for span in chunks)])
        alone = counted.nll("", question)
        worth = {span: alone - counted.nll(text[slice(*span)] + "\n\n", question) for span in chunks}
        ranked = sorted(chunks, key=lambda span: (-worth[span], span))
        kept = take(ranked, text, budget_tokens / self.fine_ratio + self.slack, counted)
        ratios = self.ratios(text, kept, worth)
        units: list[Unit] = []
        fill: list[Unit] = []
        for span in kept:
            cut, chosen = self.inside(text, span, question, ratios[span], alone, counted)
            header = class_header(text, span, chunks) if self.language == "python" else None
            units.append((header, *chosen) if header else chosen)
            fill += [(block,) for block in cut if block not in chosen]
        fill = [(block,) for unit in units for block in unit] + fill
        values = [worth[span] for span in kept]
        glue = self.marker(text)
        done = fit(text, units, values, budget_tokens, counted, self.name, glue, fill)
        if not done.manifest:
            first = [(row,) for row in rows_of(text, ranked[0], self.language)]
            done = fit(
                text, first, [-float(i) for i in range(len(first))], budget_tokens, counted, self.name, glue
            )
        return done

    def ratios(self, text: str, kept: list[Span], worth: dict[Span, float]) -> dict[Span, float]:
        """Keep ratio of every kept function; small ones get 1."""
        count = {span: len(rows_of(text, span, self.language)) for span in kept}
        large = [span for span in kept if count[span] >= self.min_lines]
        if not large or self.fine_ratio >= 1:
            return dict.fromkeys(kept, 1.0)
        goal = int(self.fine_ratio * sum(count.values())) - sum(count[s] for s in kept if s not in large)
        size = np.array([count[span] for span in large])
        share = max(0.0, goal / size.sum())
        value = np.array([worth[span] for span in large])
        spread = value.max() - value.min()
        s = (value - value.min()) / spread if spread > 0 else np.full(len(large), 0.5)
        r = np.clip(share * (1 + self.beta * (2 * s - 1)), 0, 1)
        if abs(r @ size - goal) > 1 and r @ size > 0:
            r = np.clip(r * max(0, goal) / (r @ size), 0, 1)
        return dict.fromkeys(kept, 1.0) | {span: float(x) for span, x in zip(large, r, strict=True)}

    def inside(
        self, text: str, span: Span, question: str, ratio: float, alone: float, scorer: CountedScorer
    ) -> tuple[list[Span], Unit]:
        """All blocks of a function, and the chosen ones."""
        if ratio >= 0.999:
            return [span], (span,)
        body, rows = text[slice(*span)], rows_of(text, span, self.language)
        _, offsets, log_probs = scorer.token_logprobs("", body)
        cut = blocks(rows, line_surprise(rows, offsets, log_probs, span[0]), self.k)
        if len(cut) < 5:
            return [span], (span,)
        parts = [text[a:b] for a, b in cut]
        cost = [scorer.count_tokens(part) for part in parts]
        forced = [i for i, part in enumerate(parts) if always_kept(part, self.language)]
        free = [i for i in range(len(cut)) if i not in forced]
        room = int(scorer.count_tokens(body) * ratio) - sum(cost[i] for i in forced)
        if self.value == "conditional" and room > 0:
            counted_parts = (parts[i] for i in free if parts[i].strip())
            scorer.prefetch((part + "\n\n", question) for part in counted_parts)
        values = [self.block_value(parts, i, question, alone, scorer) for i in free]
        chosen = [free[j] for j in knapsack(values, [cost[i] for i in free], room)] if room > 0 else []
        unit = tuple(cut[i] for i in sorted([*forced, *chosen]))
        if self.language == "python" and parses(body) and not parses("".join(text[a:b] for a, b in unit)):
            return cut, (span,)
        return cut, unit

    def block_value(
        self, parts: list[str], i: int, question: str, alone: float, scorer: CountedScorer
    ) -> float:
        if not parts[i].strip():
            return 0.0
        if self.value == "contrastive":
            before = "".join(parts[:i])
            return scorer.nll(before, parts[i]) - scorer.nll(question + "\n\n" + before, parts[i])
        return alone - scorer.nll(parts[i] + "\n\n", question)

    def marker(self, text: str):
        """Glue: one omission comment a gap, indented like the next kept line; three dots in prose."""

        if self.language == TEXT:
            return lambda last, start: "... "

        def glue(last: int, start: int) -> str:
            following = text[start:].split("\n", 1)[0] if start < len(text) else ""
            indent = following[: len(following) - len(following.lstrip())]
            newline = "\n" if last and text[last - 1] != "\n" else ""
            return f"{newline}{indent}{comment(self.language)} ...\n"

        return glue
