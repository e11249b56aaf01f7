"""Ada-LEval's TSort (NAACL 2024): put four shuffled segments of a text into order. BestAnswer's loader is `ada_leval_best_answer`.

TSort: four consecutive segments of the prose haystack of about equal size, shuffled; gold = the shown numbers in true order, e.g. [4, 1, 3, 2].
The paper also gives the text before and after so that the order is decidable: `frame` sentences on either side.
Ranking: `candidates` of the 24 orders (24 = all), for a model that cannot write lists.
Upstream accepts lists that are too short: whole lists here.
"""

import itertools

from longspan.bench.item import Item
from longspan.bench.task import Maker, Task
from longspan.errors import BadInput

SEGMENTS = 4
ORDERS = tuple(itertools.permutations(range(1, SEGMENTS + 1)))


def tsort(maker: Maker) -> Item:
    assert maker.haystack is not None
    source, frame = maker.haystack.units, maker.knobs["frame"]
    if len(source) < 60:
        raise BadInput("TSort needs a real text of at least 60 sentences: use prose or the path of a book")
    shuffled = list(range(SEGMENTS))
    maker.rng("order").shuffle(shuffled)
    gold = "[" + ", ".join(str(shuffled.index(i) + 1) for i in range(SEGMENTS)) + "]"
    rng = maker.rng("candidates")
    texts = ["[" + ", ".join(map(str, order)) + "]" for order in ORDERS]
    others = rng.sample([t for t in texts if t != gold], min(maker.knobs["candidates"], len(ORDERS)) - 1)
    candidates = [gold, *others]
    rng.shuffle(candidates)
    limit = len(source) - 2 * frame - 8

    def build(sentences: int) -> Item:
        start = maker.rng("start").randrange(len(source))
        if start + sentences + 2 * frame > len(source):
            start = start % max(1, len(source) - sentences - 2 * frame)
        taken = [source[start + i] for i in range(sentences + 2 * frame)]
        before, body, after = taken[:frame], taken[frame : frame + sentences], taken[frame + sentences :]
        cuts = [round(i * len(body) / SEGMENTS) for i in range(SEGMENTS + 1)]
        parts = ["".join(body[a:b]).strip() for a, b in itertools.pairwise(cuts)]
        text = "Four parts of a text are shown in the wrong order. Find the right order.\n\n"
        if before:
            text += f"[Before]\n{''.join(before).strip()}\n\n"
        evidence = []
        for place, original in enumerate(shuffled, 1):
            text += f"[Part {place}]\n"
            evidence.append((len(text), len(text) + len(parts[original])))
            text += parts[original] + "\n\n"
        if after:
            text += f"[After]\n{''.join(after).strip()}\n\n"
        return maker.item(
            context=text.rstrip(),
            question="In which order do the parts belong? Give the part numbers as a list, first part first, such as [2, 1, 4, 3].",
            answer_prefix="Answer:",
            answers=(gold,),
            candidates=tuple(candidates),
            evidence=tuple(evidence),
            metadata={"together": True, "inferred": True, "segments": SEGMENTS},
        )

    return maker.fit(build, minimum=SEGMENTS, maximum=limit)


TASKS = (
    Task(
        name="tsort",
        description="put four shuffled parts of a text into order",
        source="Ada-LEval (Wang et al., NAACL 2024)",
        generate=tsort,
        scorer="permutation",
        max_new_tokens=24,
        scope="S3",
        diffusion="D2",
        haystacks=("prose",),
        knobs={"candidates": 24, "frame": 2},
        min_tokens=768,
        blind=0.4,
    ),
)
