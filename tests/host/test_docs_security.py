"""Every test that docs/explanation/security.md names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECURITY = (ROOT / "docs/explanation/security.md").read_text()


def existing() -> set[str]:
    """Names of the C cases and the VM tests."""
    cases = "".join(path.read_text() for path in (ROOT / "tests/c/abi").glob("*.c"))
    tests = "".join(path.read_text() for path in (ROOT / "tests/vm").glob("*.py"))
    return {
        *re.findall(r"^CASE\((\w+)\)", cases, re.MULTILINE),
        *re.findall(r"^def (test_\w+)", tests, re.MULTILINE),
    }


def test_each_promise_names_a_test_that_exists() -> None:
    promises = re.search(r"## Promises\n(.*?)\n## ", SECURITY, re.DOTALL)
    assert promises is not None
    rows = re.findall(r"^\| (?!promise|---)(.*) \| (.*) \|$", promises.group(1), re.MULTILINE)
    assert rows
    named = {promise: re.findall(r"`(\w+)`", tests) for promise, tests in rows}
    assert [promise for promise, tests in named.items() if not tests] == []
    assert {test for tests in named.values() for test in tests} - existing() == set()
