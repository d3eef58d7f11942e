"""The tutorial's last part: the same script, on NVMe queues that it owns."""

import os
import re
from pathlib import Path

import exmapdb
import pytest
from tutorial import COMMANDS, EXPECTED, LAST_LINE_IN_GUEST, run_script


@pytest.mark.skipif("EXMAP_NVME" not in os.environ, reason="takes an owned NVMe controller")
def test_the_script_prints_the_same_on_owned_queues(tmp_path: Path) -> None:
    command = re.search(r"sh -c '(.*)'", COMMANDS[-1])
    assert command
    # other tests have left something there that is no database, which the script would not overwrite
    exmapdb.open(f"nvme:{os.environ['EXMAP_NVME']}", backend="kernel", flag="n", force=True).close()
    lines = EXPECTED.splitlines(keepends=True)
    assert run_script(tmp_path, "sh", "-c", command[1]) == "".join(lines[:-1]) + LAST_LINE_IN_GUEST
