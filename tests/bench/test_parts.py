"""The runner of small measurements: resumed runs measure nothing twice, means cover all rows, another model begins anew."""

import json

import pytest

from longspan.bench.parts import measure


def test_a_cut_off_run_goes_on_where_it_stopped(tmp_path, capsys):
    out, ran = tmp_path / "deep" / "r.json", []

    def part(model, seed):
        ran.append(seed)
        if seed == 2 and len(ran) == 3:
            raise KeyboardInterrupt
        return {"m": {"figure": float(seed)}}

    with pytest.raises(KeyboardInterrupt):
        measure(None, "tiny", {"p": part}, 4, 1e9, out)
    assert json.loads(out.read_text())["parts"]["p"]["samples"] == 2
    stored = measure(None, "tiny", {"p": part}, 4, 1e9, out)
    assert ran == [0, 1, 2, 2, 3] and stored == json.loads(out.read_text())
    assert stored["parts"]["p"]["methods"] == {"m": {"figure": 1.5}} and len(list(out.parent.iterdir())) == 1
    assert measure(None, "tiny", {"p": part}, 9, -1.0, out)["parts"]["p"]["samples"] == 4
    assert measure(None, "other", {"p": part}, 1, 1e9, out)["parts"]["p"]["samples"] == 1
