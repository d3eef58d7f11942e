"""A guest panics with snapshots and NVMe commands in flight; its memory tells what was going on.

Before that it is looked at from outside, by QMP. The guest runs tests/panic_session.py, which says beforehand
what there is to be found.
"""

import doctest
import inspect as reflection
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import drgn
import exmap_drgn
import kernels
import pytest
import vm

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs/how-to/inspect.md"
INSPECT = (sys.executable, "-m", "exmapctl", "inspect")
COMMAND = ("sh", "ci/guest-nvme.sh", "exmap0", "env", "PYTHONPATH=tests", "python", "tests/panic_session.py")


# all of them print what does not change between a look at the guest and its panic
OUTSIDE = ("regions", "snapshot", "nvme", "events", "check")


def inspect(*arguments: str | Path) -> Any:
    """Run exmapctl inspect on the memory of another kernel."""
    done = subprocess.run([*INSPECT, *arguments, "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


class Panic(NamedTuple):
    """What the guest said before it panicked, what was seen of it from outside, and its memory."""

    truth: dict[str, Any]
    outside: dict[str, Any]
    core: Path
    module: Path

    def inspect(self, *arguments: str) -> Any:
        """Run exmapctl inspect on the dump."""
        return inspect(*arguments, "--core", self.core, "--module", self.module)


def wait_for_truth(path: Path, running: "Future[vm.Result]") -> dict[str, Any]:
    """Return what the session prints when all is ready; if the guest is lost, raise what became of it."""
    while not (path.exists() and path.read_text().endswith("\n")):
        if running.done():
            running.result()
            pytest.fail("the session has ended")
        time.sleep(0.5)
    return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module", params=["6.12", pytest.param("6.1", marks=pytest.mark.slow)])
def panic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panic]:
    directory = tmp_path_factory.mktemp("dump")
    core, monitor = directory / "core", directory / "qmp"
    guest = vm.Guest(
        kernel=request.param,
        memory="512M",
        nvme=("64M",),
        iommu=True,
        load=True,
        dump=core,
        monitor=monitor,
        timeout=900.0,
    )
    module = kernels.build_module(kernels.find(request.param))
    with vm.results_directory() as out, ThreadPoolExecutor(1) as pool:
        running = pool.submit(vm.run, guest, COMMAND, out=out)
        try:
            truth = wait_for_truth(out / "stdout", running)
            outside = {what: inspect(what, "--qmp", monitor, "--module", module) for what in OUTSIDE}
        finally:
            (out / "go").touch()
        with pytest.raises(vm.LostGuest):
            running.result()
    yield Panic(truth, outside, core, module)
    core.unlink()


@pytest.mark.parametrize("what", OUTSIDE)
def test_a_guest_that_runs_shows_from_outside_what_its_dump_shows_later(panic: Panic, what: str) -> None:
    assert panic.outside[what] == panic.inspect(what)


def test_the_process_that_owned_the_region_is_found(panic: Panic) -> None:
    [region] = panic.inspect("regions")
    assert (region["pid"], region["command"]) == (panic.truth["pid"], "python")
    assert region["address"] == panic.truth["address"]
    assert region["pool"]["mapped"] == 190
    assert panic.inspect("check") == []


def test_the_frames_that_each_snapshot_held_are_found(panic: Panic) -> None:
    found = panic.inspect("snapshot")
    for one, truth in zip(found, panic.truth["snapshots"], strict=True):
        assert one["snapshot"] == truth["id"]
        assert len(one["frames"]) == truth["frames"]
    pages = [[frame["page"] for frame in one["frames"]] for one in found]
    assert 3 in pages[0]
    assert pages[1] == list(range(50, 60))
    held = {frame["frame"] for one in found for frame in one["frames"]}
    places = {place["place"]: place["frames"] for place in panic.inspect("frames")}
    assert held == {first + i for first, count in places["record"] for i in range(count)}


def test_the_commands_that_were_in_flight_are_found(panic: Panic) -> None:
    [queue] = panic.inspect("nvme")
    assert queue["pid"] == panic.truth["pid"]
    pages = panic.truth["in_flight"]
    assert [command["pages"] for command in queue["in_flight"]] == [[page] for page in pages]
    assert [command["lba"] for command in queue["in_flight"]] == [8 * page for page in pages]
    assert {command["command"] for command in queue["in_flight"]} == {"read"}
    # what the page table says of such a page is what the command was given
    address = panic.truth["address"] + 4096 * pages[0]
    chunk = panic.inspect("chunk", hex(address))
    [run] = [run for run in chunk["pages"] if run["page"] <= pages[0] < run["page"] + run["pages"]]
    assert run["residency"] == "mapped"
    assert queue["in_flight"][0]["frames"] == [run["frame"] + pages[0] - run["page"]]


def test_the_last_events_are_found(panic: Panic) -> None:
    events = [(event["event"], event["snapshot"]) for event in panic.inspect("events")]
    one, other = (snapshot["id"] for snapshot in panic.truth["snapshots"])
    assert events == [("region_created", None), ("snapshot_created", one), ("snapshot_created", other)]


def test_the_session_of_the_how_to_works(panic: Panic, tmp_path: Path) -> None:
    (tmp_path / "core").symlink_to(panic.core)
    (tmp_path / "exmap.ko").symlink_to(panic.module)
    lines = HOW_TO.read_text().splitlines()
    commands = [line.split() for line in lines if line.startswith("    exmapctl inspect")]
    session = [words[2:] for words in commands if "--core" in words]
    assert {words[0] for words in session} == {"regions", "snapshot", "nvme", "events", "check"}
    for words in session:
        subprocess.run([*INSPECT, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)


def test_the_module_of_another_kernel_is_refused(panic: Panic, tmp_path: Path) -> None:
    other = kernels.build_module(kernels.find("6.1" if "6.12" in str(panic.module) else "6.12"))
    with pytest.raises(exmap_drgn.NoDebugInfo):
        exmap_drgn.open_dump(panic.core, other)
    not_a_dump = tmp_path / "core"
    not_a_dump.write_bytes(b"nothing")
    with pytest.raises(exmap_drgn.NoKernelNotes):
        exmap_drgn.open_dump(not_a_dump, panic.module)


def helpers() -> list[str]:
    """Name the functions of exmap_drgn."""
    return [name for name in exmap_drgn.__all__ if reflection.isfunction(getattr(exmap_drgn, name))]


@pytest.mark.parametrize("name", helpers())
def test_every_helper_has_types_and_an_example(name: str) -> None:
    helper = getattr(exmap_drgn, name)
    types = reflection.get_annotations(helper)
    assert set(types) == {*reflection.signature(helper).parameters, "return"}
    assert doctest.DocTestParser().get_examples(helper.__doc__ or "")


def test_the_examples_of_the_helpers_work(panic: Panic, sound: drgn.Program) -> None:
    [region] = exmap_drgn.for_each_exmap_region(sound)
    snap = list(exmap_drgn.for_each_exmap_snapshot(region))[-1]
    known = {name: getattr(exmap_drgn, name) for name in exmap_drgn.__all__} | {
        "prog": sound,
        "region": region,
        "snap": snap,
        "record": next(record for _, record in exmap_drgn.for_each_exmap_record(snap)),
        "ctrl": next(exmap_drgn.for_each_nvme_controller(sound)),
        "queue": next(exmap_drgn.for_each_nvme_queue(sound)),
    }
    for name in helpers():
        for example in doctest.DocTestParser().get_examples(getattr(exmap_drgn, name).__doc__):
            # those that open something are what this and other tests begin with
            if not example.source.startswith(("prog =", "load_exmap")):
                assert eval(example.source, known) is not None, example.source


def test_drgn_itself_knows_the_module_by_two_lines(panic: Panic, tmp_path: Path) -> None:
    script = tmp_path / "session.py"
    script.write_text(
        "from exmap_drgn import *\n"
        f"load_exmap(prog, {str(panic.module)!r})\n"
        "print([(int(region.pid), check_region(region)) for region in for_each_exmap_region(prog)])\n"
    )
    drgn_program = Path(sys.executable).with_name("drgn")
    command = [drgn_program, "-q", "--no-default-symbols", "-c", panic.core, script]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"[({panic.truth['pid']}, [])]\n"


@pytest.fixture(scope="module")
def sound(panic: Panic) -> drgn.Program:
    return exmap_drgn.open_dump(panic.core, panic.module)


class Damage:
    """Changes what a program reads from a dump; the dump stays as it is.

    The program reads all of its memory through this, so its checks see what they would see in a kernel whose
    memory had these bytes in it.
    """

    def __init__(self, panic: Panic, sound: drgn.Program) -> None:
        self.prog = exmap_drgn.open_dump(panic.core, panic.module)
        [self.region] = exmap_drgn.for_each_exmap_region(sound)

    def write(self, target: drgn.Object, value: int) -> None:
        """Put a value where an integer of the region is."""
        address, size = target.address_, drgn.sizeof(target)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.prog.add_memory_segment(
            address, size, lambda _address, count, offset, _physical: data[offset : offset + count], False
        )

    def findings(self) -> set[str]:
        """Say what the check calls broken."""
        [region] = exmap_drgn.for_each_exmap_region(self.prog)
        return {finding.what for finding in exmap_drgn.check_region(region)}


def lose_frame(damage: Damage) -> None:
    damage.write(damage.region.pool.nr_free, int(damage.region.pool.nr_free) - 1)


def have_frame_twice(damage: Damage) -> None:
    pool = damage.region.pool
    damage.write(pool.free[0], int(pool.free[1]))


def map_free_frame(damage: Damage) -> None:
    word = damage.region.chunks[0].words[7]
    damage.write(word, int(damage.region.pool.free[0]) + 1)


def name_no_frame(damage: Damage) -> None:
    damage.write(damage.region.chunks[0].words[7], int(damage.region.pool.capacity) + 1)


def deny_entry(damage: Damage) -> None:
    damage.write(damage.region.chunks[0].words[7], 0)


def lose_entry(damage: Damage) -> None:
    damage.write(damage.region.chunks[1].table[5].pte, 0)


def share_writable(damage: Damage) -> None:
    entry = damage.region.chunks[0].table[7].pte
    damage.write(entry, int(entry) | 2)


def record_free_frame(damage: Damage) -> None:
    newest = list(exmap_drgn.for_each_exmap_snapshot(damage.region))[-1]
    [(_, record)] = exmap_drgn.for_each_exmap_record(newest)
    damage.write(record.words[50], int(damage.region.pool.free[0]) + 1)


def miscount_record(damage: Damage) -> None:
    newest = list(exmap_drgn.for_each_exmap_snapshot(damage.region))[-1]
    [(_, record)] = exmap_drgn.for_each_exmap_record(newest)
    damage.write(record.nr_frames, int(record.nr_frames) + 1)


def miscount_mapped(damage: Damage) -> None:
    mapped = damage.region.interfaces[0].counts.mapped
    damage.write(mapped, int(mapped) + 1)


@pytest.mark.parametrize(
    ("cause", "wanted"),
    [
        (lose_frame, {"a frame is nowhere", "the books of the pool do not balance"}),
        (have_frame_twice, {"a frame is in two places", "a frame is nowhere"}),
        (map_free_frame, {"a frame is in two places", "a frame is nowhere"}),
        (name_no_frame, {"a residency word names no frame", "a frame is nowhere"}),
        (deny_entry, {"the entry maps what residency denies", "a frame is nowhere"}),
        (lose_entry, {"residency says mapped, the entry does not"}),
        (share_writable, {"a page that a snapshot shares is writable"}),
        (record_free_frame, {"a frame is in two places", "a frame is nowhere"}),
        (miscount_record, {"a record's count of frames is wrong"}),
        (miscount_mapped, {"the books of the pool do not balance"}),
    ],
)
def test_damage_is_found(
    panic: Panic, sound: drgn.Program, cause: Callable[[Damage], None], wanted: set[str]
) -> None:
    damage = Damage(panic, sound)
    cause(damage)
    assert wanted <= damage.findings()
