"""The blocks of the tutorial, as the document has them."""

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["BLOCKS", "COMMANDS", "EXPECTED", "LAST_LINE_IN_GUEST", "run_script"]

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/tutorial/first-database.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [text for kind, text in BLOCKS if kind == "sh"]
SCRIPT = "\n".join(text for kind, text in BLOCKS if kind == "python")
*OUTPUTS, LAST_LINE_IN_GUEST = [text for kind, text in BLOCKS if kind == "text"]
EXPECTED = "".join(OUTPUTS)


def run_script(folder: Path, *command: str) -> str:
    """Run all of the tutorial's Python as the file that it says, and return what it printed."""
    (folder / "bank.py").write_text(SCRIPT)
    done = subprocess.run(
        command or (sys.executable, "bank.py"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
