"""AgentWrite: plan, then write part by part, for texts far longer than a model's habit.

Source: "LongWriter: Unleashing 10,000+ Word Generation from Long Context LLMs" (2024); code THUDM/LongWriter, agentwrite.
Plan call: one line a part with main point and word count, 200-1000 words each, at most 50 parts. Write calls, strictly in
order, each with the brief, the plan, all text so far and the next step; parts are joined by blank lines.
Added here: the plan's counts are scaled to the asked total (`plan.py`); after every part the rest is scaled again, so errors do
not add up; a part that is short is continued, one that is long is cut at a sentence; sentences that already stand in the
text are dropped, and an answer that was mostly such sentences or repeats more than `repeat_limit` of its 8-grams is not taken.
Fallbacks: no usable plan -> equal parts; nothing new for a part -> the part is skipped and its words go to the rest (after the last one, to parts that add
detail); three
skipped in a row -> `Stuck`. The draft on disk makes each of these resumable. The paper plans at temperature 1; 0 here.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from longspan.context import chunking
from longspan.context.agents import draft as drafts
from longspan.context.agents.base import EmptyAnswer, ask, clip, size
from longspan.context.agents.draft import Draft
from longspan.context.agents.length import count_words, length_score, overlap, repetition, word_ends, words_of
from longspan.context.agents.plan import Step, even_plan, fitted, parse_plan, share_out, shown
from longspan.context.documents import read_document
from longspan.context.port import ChatModel
from longspan.context.prompts.writing import MORE, PLAN, SECTION
from longspan.context.security import sanitise
from longspan.errors import BadInput

_REMNANT = re.compile(r"^\W*paragraph \d+ - main point:.*$\n?", re.IGNORECASE | re.MULTILINE)
_MORE_ON = "more detail on: "
Progress = Callable[[int, int, int, int], None]  # part, parts, words so far, words asked


class Stuck(BadInput):
    """The model gave nothing new for three parts in a row."""


@dataclass(frozen=True)
class Written:
    """The finished text with what was asked and reached; `skipped` parts; `planned_by` model or fallback."""

    text: str
    asked: int
    words: int
    score: float
    repetition: float
    parts: int
    skipped: int
    planned_by: str


@dataclass(frozen=True)
class AgentWrite:
    """Knobs: bounds of a part in words; most parts; part size the planner is asked for; share of words a part may miss;
    tries; 8-gram share that counts as repeating; window in tokens; seed and retry temperature."""

    min_words: int = 200
    max_words: int = 1000
    max_parts: int = 50
    usual_words: int = 600
    tolerance: float = 0.08
    tries: int = 3
    repeat_limit: float = 0.2
    most_extra: int = 4
    plan_tokens: int = 4096
    window: int = 32768
    retry_temperature: float = 0.7
    seed: int = 0

    def write(
        self, model: ChatModel, brief: str, words: int, path: Path, progress: Progress | None = None
    ) -> Written:
        """Write or go on with the draft file at `path`."""
        brief = sanitise(brief).strip()
        if count_words(brief) < 2:
            raise BadInput("the brief has no content; say in a sentence what the text is about")
        if not 1 <= words <= self.max_parts * self.max_words:
            most = self.max_parts * self.max_words
            raise BadInput(f"the asked length is {words} words; choose 1 to {most}, or write several texts")
        draft = drafts.load(path, self._made_for(model, brief, words))
        if not draft.steps:
            draft.steps, draft.planned_by = self.plan(model, brief, words)
            if len(draft.steps) > 1:  # a plan of one part cost nothing and is not kept
                drafts.save(draft, path)
        while not draft.finished:
            draft.sections.append(self._part(model, brief, words, draft))
            if len(draft.sections) >= 3 and not any(s["text"] for s in draft.sections[-3:]):
                raise Stuck(
                    f"the model gave nothing new for three parts in a row; {count_words(draft.text())} of {words} words are "
                    f"written, use another model and run again to go on"
                )
            drafts.save(draft, path)
            self._top_up(words, draft)
            if progress:
                progress(len(draft.sections), len(draft.steps), count_words(draft.text()), words)
        text, skipped = draft.text(), sum(not s["text"] for s in draft.sections)
        reached = count_words(text)
        score = length_score(words, reached)
        return Written(
            text, words, reached, score, repetition(text), len(draft.steps), skipped, draft.planned_by
        )

    def _made_for(self, model: ChatModel, brief: str, words: int) -> dict:
        prompts = drafts.fingerprint(PLAN.id + SECTION.id + MORE.id)
        return {
            "brief": drafts.fingerprint(brief),
            "length": words,
            "model": model.model_id,
            "knobs": asdict(self),
            "prompts": prompts,
        }

    def plan(self, model: ChatModel, brief: str, words: int) -> tuple[list[Step], str]:
        """Steps that sum to `words`, and who planned them. Port errors other than an empty answer pass through."""
        parts = min(self.max_parts, max(1, round(words / self.usual_words)))
        if parts == 1:
            return [Step(" ".join(brief.split())[:400], words)], "model"
        fields = {"brief": brief, "words": str(words), "parts": str(parts)}
        for attempt in range(self.tries):
            try:
                done = ask(
                    model,
                    PLAN,
                    stage="plan",
                    max_tokens=self.plan_tokens,
                    **self._sampling(attempt, 0),
                    **fields,
                )
            except EmptyAnswer:
                continue
            steps = parse_plan(sanitise(done.text))
            if 2 <= len(steps) <= self.max_parts:
                steps = fitted(steps, words, self.min_words, self.max_words)
                if len(steps) <= self.max_parts:
                    return steps, "model"
        return even_plan(brief, words, parts), "fallback"

    def _top_up(self, words: int, draft: Draft) -> None:
        """When the last part leaves the text short, up to `most_extra` parts go into more detail on early ones."""
        missing, extra = (
            words - count_words(draft.text()),
            sum(s.point.startswith(_MORE_ON) for s in draft.steps),
        )
        if draft.finished and missing > self.tolerance * words and extra < self.most_extra:
            point = draft.steps[extra % (len(draft.steps) - extra)].point
            draft.steps.append(Step(f"{_MORE_ON}{point}", min(missing, self.max_words)))

    def _part(self, model: ChatModel, brief: str, words: int, draft: Draft) -> dict:
        """The next section as a row of the draft; its text is empty when the model had nothing new to say."""
        index, so_far = len(draft.sections), draft.text()
        left = max(1, words - count_words(so_far))
        step = share_out(draft.steps[index:], left)[0]
        goal = max(step.words, 1)
        text, tries = "", 0
        for attempt in range(self.tries):
            tries = attempt + 1
            new = self._ask_part(model, brief, draft, step.point, goal, so_far, text, attempt, index)
            if new and overlap(new, so_far + "\n" + text) <= self.repeat_limit:
                text = f"{text}\n\n{new}" if text else new
            if count_words(text) >= goal * (1 - self.tolerance):
                break
        text = cut_to(text, goal, self.tolerance)
        return {"text": text, "words": count_words(text), "asked": goal, "tries": tries}

    def _ask_part(self, model, brief, draft, point, goal, so_far, begun, attempt, index) -> str:
        missing = goal - count_words(begun)
        limit = 2 * missing + 128
        if begun:
            fields = {"brief": brief, "part": point, "section": begun, "words": str(missing)}
            prompt = MORE
        else:
            fields = {
                "brief": brief,
                "plan": shown(draft.steps),
                "written": "",
                "part": point,
                "words": str(missing),
            }
            room = self.window - limit - size(model, SECTION, **fields)
            fields["written"] = tail(model, so_far, room) or "(nothing yet)"
            prompt = SECTION
        try:
            done = ask(
                model, prompt, stage="write", max_tokens=limit, **self._sampling(attempt, index + 1), **fields
            )
        except EmptyAnswer:
            return ""
        text = _REMNANT.sub("", sanitise(done.text)).strip()
        if done.finish_reason == "length":
            text = whole_sentences(text)
        new = without_repeats(text, so_far + "\n" + begun)
        return new if 2 * count_words(new) >= count_words(text) else ""

    def _sampling(self, attempt: int, part: int) -> dict:
        """Greedy first; later tries differ in seed and temperature, so that asking again can help."""
        return {
            "temperature": self.retry_temperature if attempt else 0.0,
            "seed": self.seed + 1000 * part + attempt,
        }


def brief_of(given: str) -> str:
    """The text of a brief that is either written out or the path of a file that holds it."""
    path = Path(given).expanduser()
    try:
        is_file = path.is_file()
    except OSError:  # a written-out brief may be longer than a file name can be
        is_file = False
    if is_file:
        return read_document(path).text
    if len(given.split()) == 1 and ("/" in given or path.suffix):
        raise BadInput(f"there is no file {given}; write the brief out or name a file that holds it")
    return given


def write_file(
    agent: AgentWrite,
    model: ChatModel,
    brief: str,
    words: int,
    out: Path,
    restart: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write the text to `out` in one step at the end; until then the draft lies beside it as `<out>.draft.json`."""
    drafts.writable(out)
    state = out.with_name(out.name + ".draft.json")
    if out.exists() and not state.exists() and not restart:
        raise BadInput(f"{out} exists already; choose another name, or restart to replace it")
    if restart:
        state.unlink(missing_ok=True)
    written = agent.write(model, brief, words, state, progress)
    drafts.write_whole(out, written.text + "\n")
    state.unlink(missing_ok=True)
    return written


def without_repeats(text: str, earlier: str) -> str:
    """`text` without sentences of five or more words that stand in `earlier` or stood in `text` before."""
    seen = {" ".join(words_of(earlier[a:b])) for a, b in chunking.sentences(earlier)}
    kept = []
    for a, b in chunking.sentences(text):
        words = words_of(text[a:b])
        key = " ".join(words)
        if len(words) < 5 or key not in seen:
            kept.append(text[a:b])
        seen.add(key)
    return "".join(kept).strip()


def cut_to(text: str, goal: int, tolerance: float) -> str:
    """The prefix of whole sentences that comes nearest to `goal` words, if `text` is too long; cut inside a sentence only when
    the first one alone is too long."""
    if count_words(text) <= goal * (1 + tolerance):
        return text
    best, gap, total = 0, goal, 0
    for a, b in chunking.sentences(text):
        total += count_words(text[a:b])
        if abs(total - goal) < gap:
            best, gap = b, abs(total - goal)
        if total >= goal:
            break
    if gap > max(1, goal * tolerance):
        return text[: word_ends(text)[goal - 1]].rstrip(",;:- ") + "."
    return text[:best].rstrip()


def whole_sentences(text: str) -> str:
    """`text` without a last sentence that was cut off (all of it when there is only one)."""
    spans = chunking.sentences(text)
    if len(spans) < 2 or re.search(r"[.!?…。！？][\"'”’)\]]*\s*$", text):
        return text
    return text[: spans[-1][0]].rstrip()


def tail(model: ChatModel, text: str, limit: int) -> str:
    """The last paragraphs that fit `limit` tokens; the start is replaced by an ellipsis."""
    if limit < 1:
        return ""
    if model.count_tokens(text) <= limit:
        return text
    kept: list[str] = []
    for paragraph in reversed(text.split("\n\n")):
        if model.count_tokens("…\n\n" + "\n\n".join([paragraph, *kept])) > limit:
            break
        kept.insert(0, paragraph)
    return "…\n\n" + "\n\n".join(kept) if kept else clip(model, text[-4 * limit :], limit)
