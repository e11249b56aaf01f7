"""What `kvpress_agreement.py` compares: one policy in both languages a row, with what had to be set or how the definitions differ.

Budgets: kvpress keeps int(T (1 - ratio)) of T tokens, here round(budget T); T is a multiple of 8, so that both are the same number.
"""

from dataclasses import dataclass

from longspan.engine.recipe import parse
from longspan.errors import BadInput

READ, WINDOW = 320, 32  # tokens read; of them, the last that vote


@dataclass(frozen=True)
class Pair:
    """One policy on both sides. press: class and arguments of the peer. same: whether both follow one definition. note: what was set, or how
    the definitions differ. decoding: the press acts while tokens are appended."""

    name: str
    recipe: str
    press: dict | None
    note: str
    same: bool = True
    eager: bool = False
    decoding: bool = False
    chunk: int = 128


def press(name, ratio=None, **arguments):
    return {"class": name, **({} if ratio is None else {"compression_ratio": ratio}), **arguments}


def pyramid(share):
    """Slopes with which both lines of layer budgets are the same whole numbers: (ours, kvpress's).

    kvpress's line runs from 2b - b/beta to b/beta entries with the window inside, b = share T; the paper's, ours, from w + 2(b - w) - (b - w)/beta
    to w + (b - w)/beta. They coincide when the smaller ends do; the end is chosen so that 29 equal steps are whole.
    """
    mean, window = round(share * READ), 8
    least = mean % 29 if mean % 29 > window else mean % 29 + 29
    return (mean - window) / (least - window), mean / least


def duo_pair(lm):
    """DuoAttention at half the cache, or none when the model's gates are not there: whole heads only, so that no head keeps a part."""
    (method,) = parse("duoattention(budget=0.5)").methods
    try:
        ranking = method.ranking(lm)
    except BadInput:
        return []
    kept, window, heads = READ // 2 * len(ranking), method.sink + method.recent, lm.geometry.kv_heads
    whole, part = divmod(kept - window * len(ranking), READ - window)
    if part:
        return []
    retrieval = set(ranking[:whole])
    streaming = [
        [int(i * heads + j not in retrieval) for j in range(heads)] for i in range(len(ranking) // heads)
    ]
    given = press(
        "DuoGiven", head_compression_ratio=0.5, streaming=streaming, window=[method.sink, method.recent]
    )
    return [
        Pair("duoattention 0.5", "duoattention(budget=0.5)", given, "our head pattern handed to the peer")
    ]


def pairs(lm):
    found = [Pair("full", "full", None, "no compression: what two transformers versions differ by")]
    for share in (0.5, 0.25, 0.125):
        keep, cut = f"budget={share}", 1 - share
        snap = dict(window_size=WINDOW, kernel_size=5)
        ours, theirs = pyramid(share)
        found += [
            Pair(f"snapkv {share}", f"snapkv({keep}, window=32, pool=5, pooling=avg, group=mean)", press("SnapKVPress", cut, **snap),
                 "sum over the window's rows here, mean there: the same order"),
            Pair(f"knorm {share}", f"knorm({keep})", press("KnormPress", cut), "no layers skipped (skip_layers=0)"),
            Pair(f"keydiff {share}", f"keydiff({keep})", press("KeyDiffPress", cut), "rotated keys on both sides"),
            Pair(f"tova {share}", f"tova({keep})", press("TOVAPress", cut), "the newest entry always stays on both sides"),
            Pair(f"window {share}", f"window({keep}, sink=4)", press("StreamingLLMPress", cut, n_sink=4), "original positions"),
            Pair(f"observed_attention {share}", f"observed_attention({keep})", press("ObservedAttentionPress", cut), "", eager=True),
            Pair(f"h2o {share}", f"h2o({keep}, recent_share=0, normalise=true, group=mean)", press("ObservedAttentionPress", cut),
                 "kvpress has no H2O; its observed attention is H2O's score per query, without recent entries", eager=True),
            Pair(f"expected_attention {share}", f"expected_attention({keep})", press("ExpectedAttentionPress", cut), ""),
            Pair(f"expected_attention adaptive {share}", f"expected_attention({keep}, allocator=adaptive, floor=0, epsilon=0.01)",
                 press("AdaKVPress", press=press("ExpectedAttentionPress", cut, epsilon=0.01), alpha_safeguard=0.0),
                 "the peer's leaderboard entry, but without the floor, whose rule differs"),
            Pair(f"adakv {share}", f"adakv({keep}, floor=0, base=snapkv(window=32, pool=5))",
                 press("AdaKVPress", press=press("SnapKVPress", cut, **snap), alpha_safeguard=0.0), "without the floor, whose rule differs"),
            Pair(f"adakv floor {share}", f"adakv({keep}, floor=0.2, base=snapkv(window=32, pool=5))",
                 press("AdaKVPress", press=press("SnapKVPress", cut, **snap), alpha_safeguard=0.2),
                 "here the paper's (1 - floor) x won + floor x even share; kvpress lets every head keep its best floor x even share and "
                 "otherwise competes without a mix", same=False),
            Pair(f"kvzip {share}", f"kvzip({keep}, prompt='\\n\\nRepeat the previous context exactly.\\n')", press("KVzipPress", cut),
                 "one pass; the line break that kvpress puts before the text is written into the request"),
            Pair(f"kvzip two passes {share}", f"kvzip({keep}, chunk=160)", press("KVzipBare", cut, chunk_size=160),
                 "without that line break, which kvpress puts after the last 8 tokens of the chunk before"),
            Pair(f"finch {share}", f"finch({keep}, window={WINDOW}, normalise=false)", press("FinchPress", cut, normalize_scores=False),
                 "keys moved together on both sides"),
            Pair(f"finch normalised {share}", f"finch({keep}, window={WINDOW})", press("FinchPress", cut),
                 "a row is multiplied by the number of entries it sees, which kvpress counts without the row's own", same=False),
            Pair(f"random {share}", f"random({keep})", press("Given", cut),
                 "our draws handed to the peer; its own RandomPress with a seed draws the same numbers in every layer"),
            Pair(f"snapkv + think {share}", f"snapkv({keep}, window=32, pool=5) + think(channels=0.6, recent=0)",
                 press("ComposedPress", presses=[press("SnapKVPress", cut, **snap), press("ThinKPress", key_channel_compression_ratio=0.4)]),
                 "recent=0: kvpress thins the newest entries too"),
            Pair(f"pyramidkv {share}", f"pyramidkv({keep}, window=8, pool=5, pooling=avg, beta={ours!r})",
                 press("PyramidKVPress", cut, window_size=8, kernel_size=5, beta=theirs), "two slopes that give one line of budgets"),
            Pair(f"pyramidkv beta=20 {share}", f"pyramidkv({keep}, window=8, pool=5, pooling=avg)",
                 press("PyramidKVPress", cut, window_size=8, kernel_size=5, beta=20),
                 "here every layer has its window besides the line, as in the paper; kvpress's line contains it, and where its "
                 "smallest layer would hold less than the window it runs plain SnapKV", same=False),
        ]  # fmt: skip
    found += [
        Pair("think", "think(channels=0.6, recent=0)", press("ThinKPress", key_channel_compression_ratio=0.4),
             "recent=0: kvpress thins the newest entries too; it writes zeros, here the channels are gone"),
        Pair("knorm while writing", f"knorm(budget={READ}, when=steps, every=8)",
             press("DecodingPress", base_press=press("KnormPress"), compression_interval=8, target_size=READ),
             "every 8 appended tokens back to 320 entries", decoding=True),
        Pair("keydiff while writing", f"keydiff(budget={READ}, when=steps, every=8)",
             press("DecodingPress", base_press=press("KeyDiffPress"), compression_interval=8, target_size=READ),
             "every 8 appended tokens back to 320 entries", decoding=True),
        Pair("keydiff by chunks", "keydiff(budget=80, when=chunk)", press("BlockPress", press=press("KeyDiffPress", 0.75), block_size=80),
             "here later chunks are read with the cut cache; kvpress reads everything densely and then plays the cuts through",
             same=False, chunk=80),
    ]  # fmt: skip
    return found + duo_pair(lm)
