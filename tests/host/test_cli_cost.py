"""What `exmapctl status` and `top` cost, counted in an icount guest, where the host's load does not show."""

import json

import pytest
import vm

# An emulated guest executes some 300 million instructions a second: status takes 1.5 s there at most,
# and top, every 2 s, 5 per cent of a CPU.
STATUS, REFRESH = 450e6, 30e6


@pytest.mark.slow
def test_status_and_top_are_cheap() -> None:
    guest = vm.Guest(smp=1, memory="1G", icount=True, load=True, timeout=1200.0)
    with vm.results_directory() as out:
        done = vm.run(guest, ["python", "tests/cli_cost_session.py"], out=out)
        assert done.returncode == 0
        found = json.loads((out / "stdout").read_text())
    print(found)
    assert found["status"] < STATUS
    assert found["refresh"] < REFRESH
