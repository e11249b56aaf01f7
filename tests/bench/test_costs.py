"""Costs of a cell: decoding timed on a few contexts of each recipe, and the peak memory of a read."""

import torch
from tests.engine.models import IDS, engine_model

from longspan.bench.costs import CONTEXTS, Latencies, PeakMemory


def test_decoding_is_timed_once_an_item_on_the_first_contexts_only():
    import longspan.bench.costs as costs

    class Spy:
        forks = 0

        def fork(self):
            Spy.forks += 1
            return engine_model().session().read(IDS[:20])

    real, costs.generate = costs.generate, lambda sessions, **_: [Timed()]
    try:
        timed, spy = Latencies(tokens=4), Spy()
        items = [f"item{n}" for n in range(CONTEXTS + 2)]
        found = [timed.measure(spy, "full", "needle", 512, item) for item in items]
        again = [timed.measure(spy, "full", "needle", 512, item) for item in items]
        assert found == [0.5] * CONTEXTS + [None, None] == again and Spy.forks == CONTEXTS
        assert timed.measure(spy, "full", "vt", 512, "item0") == 0.5 and Spy.forks == CONTEXTS + 1
        assert Latencies(tokens=0).measure(spy, "full", "needle", 512, "item0") is None
    finally:
        costs.generate = real


class Timed:
    seconds, first_token_seconds = 2.5, 0.5


def test_peak_memory_is_forgotten_at_the_start_and_sees_what_is_held_between():
    meter = PeakMemory(torch.device("cpu"))
    assert meter.bytes() is None
    meter.start()
    before = meter.bytes()
    if before is None:  # a system that does not tell
        return
    held = torch.ones(64 << 20, dtype=torch.uint8)
    after = meter.bytes()
    assert after - before > 48 << 20
    del held
    meter.start()
    assert meter.bytes() < after - (32 << 20)
