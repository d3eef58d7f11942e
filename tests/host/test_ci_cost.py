"""ci/cost.py: what is dearer with counters and events than without."""

from typing import Any

import cost
import pytest

LAZY, RANGE = "vector=512,threads=1,free=lazy", "vector=512,threads=1,how=madvise_range"
FLAGS = {cost.WITHOUT["counters"][0]: 102.0, cost.WITHOUT["events"][0]: 100.0}


@pytest.mark.parametrize(("whole", "code"), [(102.9, 0), (103.1, 1)])
def test_more_than_the_limit_is_a_failure(
    whole: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_bench(bench: str, *_: Any, environment: dict[str, str], **__: Any) -> tuple[Any, int]:
        value = whole if not environment["KCFLAGS"] else FLAGS[environment["KCFLAGS"]]
        figures = {LAZY: value, RANGE: 9000.0 / value}
        return [{"case": case, "metric": "instructions_per_op", "value": v} for case, v in figures.items()], 0

    monkeypatch.setattr(cost.bench, "run_bench", run_bench)
    monkeypatch.setattr(cost.kernels, "build_module", lambda kernel: None)
    monkeypatch.setattr(cost.kernels, "find", lambda name: None)
    monkeypatch.setattr(cost.processes, "exit_on_signals", lambda: None)
    assert cost.main([]) == code
    told = capsys.readouterr().out
    assert "counters +" in told
    assert "madvise" not in told
