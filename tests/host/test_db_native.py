"""The native core under the sanitizers, on damaged pages, and its checksum against the standard's vectors."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *sorted(map(str, (ROOT / "dbms/native").glob("*.c"))),
    *sorted(str(path) for path in (ROOT / "libexmap/src").glob("*.c") if path.name != "ffi.c"),
]
INCLUDES = [f"-I{ROOT / folder}" for folder in ("dbms/native", "libexmap/include", "kmod/uapi")]
STRICT = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
WRAP_IO = "-Wl,--wrap=exmap_vector_at,--wrap=disk_write"


@functools.cache
def objects(*flags: str) -> list[str]:
    """Compile the core with these flags, once for all programs that want them."""
    folder = tempfile.mkdtemp(prefix="exmapdb-core-")
    atexit.register(shutil.rmtree, folder)
    subprocess.run(["gcc", *STRICT, *flags, *INCLUDES, "-c", *SOURCES], cwd=folder, check=True, timeout=600)
    return sorted(map(str, Path(folder).glob("*.o")))


def build(target: Path, *parts: Path | str) -> Path:
    """Link a program of the core, its own sources, and flags."""
    own = [part for part in map(str, parts) if not part.startswith("-")]
    link = [part for part in map(str, parts) if part.startswith("-Wl,")]
    flags = [part for part in map(str, parts) if part.startswith("-") and part not in link]
    command = ["gcc", *STRICT, *flags, *link, *INCLUDES, *own, *objects(*flags), "-o", str(target)]
    subprocess.run(command, check=True, timeout=300)
    return target


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def address_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("asan") / "db_core"
    return build(target, ROOT / "tests/c/db_core.c", *ADDRESS)


@pytest.fixture(scope="module")
def thread_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tsan") / "db_core"
    return build(target, ROOT / "tests/c/db_core.c", "-fsanitize=thread")


@pytest.mark.parametrize(("seed", "threads"), [(1, 1), (2, 1), (3, 2)])
def test_core_is_clean_under_address_and_undefined(
    address_build: Path, tmp_path: Path, seed: int, threads: int
) -> None:
    assert run(address_build, tmp_path / "t.exdb", seed, threads, 20_000) == "ok\n"


@pytest.mark.parametrize("threads", [2, 4])
def test_core_has_no_data_races(thread_build: Path, tmp_path: Path, threads: int) -> None:
    assert run(thread_build, tmp_path / "t.exdb", 1, threads, 16_000) == "ok\n"


def test_checksum_is_that_of_rfc_3720_with_and_without_the_instruction(tmp_path: Path) -> None:
    program = build(tmp_path / "crc", ROOT / "tests/c/db_crc32c.c")
    # RFC 3720, appendix B.4, and the usual check value
    assert run(program).split() == ["8a9136aa", "62a8ab43", "46dd794e", "e3069283"]


@pytest.fixture(scope="module")
def faults_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("faults") / "db_faults"
    return build(target, ROOT / "tests/c/db_faults.c", *ADDRESS, WRAP_IO, "-Wl,--wrap=exmap_vector")


@pytest.mark.parametrize(
    "case",
    [
        "failed_read_leaves_the_page_evicted",
        "failed_prefetch_keeps_what_was_read",
        "dry_pool_is_evicted_and_tried_again",
        "latched_pool_is_exhausted",
        "failed_writes_lose_nothing",
        "failed_free_leaves_pages_usable",
        "resident_worker_neither_reads_nor_waits",
        "reader_during_write_back_keeps_its_page",
    ],
)
def test_buffer_manager_survives(faults_build: Path, tmp_path: Path, case: str) -> None:
    assert run(faults_build, tmp_path / "t.exdb", case) == "ok\n"


@pytest.mark.parametrize("period", [3, 7])
def test_tree_survives_failing_reads_and_writes(tmp_path: Path, period: int) -> None:
    program = build(tmp_path / "db_tree_faults", ROOT / "tests/c/db_tree_faults.c", *ADDRESS, WRAP_IO)
    assert run(program, tmp_path / "t.exdb", period) == "ok\n"


@pytest.mark.parametrize("mode", ["cycles 100000", "limit", "leaves", "readers 20"])
def test_trees_come_and_go(tmp_path: Path, mode: str) -> None:
    program = build(tmp_path / "db_trees", ROOT / "tests/c/db_trees.c", *ADDRESS)
    assert run(program, tmp_path / "t.exdb", *mode.split()) == "ok\n"


def test_readers_of_trees_that_go_have_no_data_races(tmp_path: Path) -> None:
    program = build(tmp_path / "db_trees", ROOT / "tests/c/db_trees.c", "-fsanitize=thread")
    assert run(program, tmp_path / "t.exdb", "readers", 10) == "ok\n"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_leaves_keep_their_entries_behind_prefixes(tmp_path: Path, seed: int) -> None:
    program = build(tmp_path / "db_prefix", ROOT / "tests/c/db_prefix.c", *ADDRESS)
    assert run(program, seed, 20_000) == "ok\n"


@pytest.fixture(scope="module")
def power_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("power") / "db_power"
    wrap = "-Wl,--wrap=disk_write,--wrap=disk_write_bytes,--wrap=disk_sync,--wrap=block_reclaim"
    return build(target, ROOT / "tests/c/db_power.c", *ADDRESS, wrap)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_power_losses(power_build: Path, tmp_path: Path, seed: int) -> None:
    assert run(power_build, tmp_path / "t.exdb", seed, 600, 40) == "ok\n"


@pytest.mark.parametrize("seed", [1, 2])
def test_what_a_checkpoint_covers_survives_power_losses(power_build: Path, tmp_path: Path, seed: int) -> None:
    assert run(power_build, tmp_path / "t.exdb", seed, 600, 40, "async") == "ok\n"


@pytest.mark.parametrize("flags", [ADDRESS, ["-fsanitize=thread"]], ids=["address", "thread"])
def test_threads_share_flushes_of_the_log(tmp_path: Path, flags: list[str]) -> None:
    wrap = "-Wl,--wrap=disk_sync,--wrap=pthread_cond_timedwait"
    program = build(tmp_path / "db_log", ROOT / "tests/c/db_log.c", *flags, wrap)
    assert run(program, tmp_path / "log") == "ok\n"


@pytest.mark.parametrize("mode", ["cases", "stress"])
@pytest.mark.parametrize("flags", [ADDRESS, ["-fsanitize=thread"]], ids=["address", "thread"])
def test_who_reads_without_latches_is_not_misled(tmp_path: Path, mode: str, flags: list[str]) -> None:
    # its copy of descend.c, which it can stop, takes the place of the core's
    link = "-Wl,--allow-multiple-definition"
    program = build(tmp_path / "db_optimistic", ROOT / "tests/c/db_optimistic.c", *flags, link)
    assert run(program, tmp_path / "t.exdb", mode) == "ok\n"


FUZZ = ROOT / "tests/c/fuzz_db"
# without a time in the environment: the same inputs on every machine
FUZZ_SECONDS = int(os.environ.get("EXMAP_FUZZ_SECONDS", "0"))
FUZZ_SEED = int(os.environ.get("EXMAP_FUZZ_SEED", "1"))
FUZZ_INPUTS = 10_000
PATIENCE = 300


@pytest.fixture(scope="module")
def fuzz_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fuzz") / "db_fuzz", *sorted(FUZZ.glob("*.c")), *ADDRESS)


def fuzz(program: Path, folder: Path, *arguments: object) -> str:
    """Run it where the input that ended it can be found afterwards."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=FUZZ_SECONDS + PATIENCE + 60, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\nin {folder}"
    return done.stdout


def test_inputs_that_were_once_fatal_give_named_errors(fuzz_build: Path, tmp_path: Path) -> None:
    inputs = sorted((FUZZ / "corpus").iterdir())
    assert fuzz(fuzz_build, tmp_path, *inputs) == f"{len(inputs)} inputs\n"


def test_damaged_pages_and_logs_give_named_errors(fuzz_build: Path, tmp_path: Path) -> None:
    if FUZZ_SECONDS:
        assert int(fuzz(fuzz_build, tmp_path, FUZZ_SECONDS, FUZZ_SEED).split()[0]) > 0
    else:
        assert fuzz(fuzz_build, tmp_path, PATIENCE, FUZZ_SEED, FUZZ_INPUTS) == f"{FUZZ_INPUTS} inputs\n"
