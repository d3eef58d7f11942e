"""The commands of exmapctl that ask the module over netlink. Runs as root in the guest."""

import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import exmap_netlink  # noqa: F401 -- now, since it takes seconds
import pytest
from exmapctl.app import app
from netlink_behaviour import SnapshotRegion, as_user
from typer.testing import CliRunner, Result

import libexmap


def exmapctl(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def exmapctl_json(*arguments: str) -> Any:
    done = exmapctl(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def region() -> Iterator[libexmap.Region]:
    with libexmap.Region.open(pages=4096, pool=256, interfaces=2, backend="kernel") as opened:
        opened[0].alloc(range(100))
        opened[0].free(range(20), lazy=True)
        opened[0].alloc(range(10))
        yield opened


def ours() -> dict[str, Any]:
    regions = [one for one in exmapctl_json("status")["regions"] if one["region"]["pid"] == os.getpid()]
    assert len(regions) == 1
    return dict(regions[0])


def test_status_shows_the_region_its_pool_and_its_rates(region: libexmap.Region) -> None:
    one = ours()
    assert (one["region"]["pages"], one["pool"]["pool_pages"]) == (4096, 256)
    assert (one["pool"]["mapped"], one["pool"]["quarantine"]) == (90, 10)
    assert one["rescue_rate"] == pytest.approx(10 / 110)
    assert one["pages_per_flush"] is None
    region.barrier()
    assert ours()["pages_per_flush"] == 20
    shown = exmapctl("status").stdout
    assert "regions" in shown
    assert "9.1 %" in shown


@pytest.mark.usefixtures("region")
def test_status_tells_others_that_there_may_be_more() -> None:
    """No region, and none for this user, are not the same."""

    def ask() -> list[str]:
        done = exmapctl("status")
        return [str(json.loads(exmapctl("status", "--json").stdout)["regions"]), done.stdout]

    as_json, shown = as_user([], ask)
    assert as_json == "None"
    assert "shown to root and the group" in shown


def test_tune_changes_a_region_and_says_what_holds_now(region: libexmap.Region) -> None:
    number = str(ours()["region"]["region"])
    said = exmapctl_json("tune", number, "--flush-threshold", "40", "--pool-pages", "512")
    assert (said["flush_threshold"], said["quarantine_limit"]) == (40, 40)
    assert (region.info.flush_threshold, region.counters.total) == (40, 512)
    assert exmapctl_json("tune", number)["flush_threshold"] == 40
    done = exmapctl("tune", number, "--pool-pages", "10")
    assert (done.exit_code, region.counters.total) == (1, 512)
    assert "busy" in done.stderr.lower()


def test_tune_sets_the_event_interval() -> None:
    try:
        assert exmapctl_json("tune", "--event-interval", "250") == {"event_interval": 250}
        assert exmapctl_json("tune") == {"event_interval": 250}
    finally:
        exmapctl_json("tune", "--event-interval", "1000")


def test_snapshot_list_is_empty_without_snapshots(region: libexmap.Region) -> None:
    assert exmapctl_json("snapshot", "list") == []
    assert exmapctl_json("snapshot", "list", "--region", str(ours()["region"]["region"])) == []


def test_monitor_prints_a_line_of_json_for_each_event() -> None:
    def come_and_go() -> None:
        for _ in range(20):
            libexmap.Region.open(pages=4096, pool=64, interfaces=3, backend="kernel").close()
            time.sleep(0.2)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    done = exmapctl("monitor", "--timeout", "4", "--json")
    thread.join()
    assert done.exit_code == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    created = [event for event in events if event["event"] == "region_created"]
    gone = [event for event in events if event["event"] == "region_gone"]
    assert len(created) > 5
    assert {(event["pid"], event["interfaces"], event["pool_pages"]) for event in created} == {
        (os.getpid(), 3, 64)
    }
    assert [event["region"] for event in gone[-5:]] == [event["region"] for event in created[-5:]]
    assert len(events) == len(created) + len(gone)


@pytest.fixture
def compared() -> Iterator[tuple[SnapshotRegion, list[int]]]:
    """A region, and two snapshots between which pages 0 to 9 were written."""
    region = SnapshotRegion(pages=1024, pool=256)
    region.write(40)
    fds = [region.snapshot()]
    region.write(10)
    fds.append(region.snapshot())
    yield region, fds
    for fd in fds:
        os.close(fd)
    region.close()


def test_snapshot_diff_by_ids_and_by_descriptors(compared: tuple[SnapshotRegion, list[int]]) -> None:
    _, fds = compared
    older, newer = (one["snapshot"] for one in exmapctl_json("snapshot", "list"))
    found = exmapctl_json("snapshot", "diff", str(older), str(newer))
    assert (found["older"], found["newer"], found["count"]) == (older, newer, 1024)
    [(first, length)] = found["runs"]
    assert first == 0
    assert 10 <= length == found["changed"] <= 18
    named = [f"{os.getpid()}:{fd}" for fd in fds]
    assert exmapctl_json("snapshot", "diff", *named) == found
    assert exmapctl_json("snapshot", "diff", str(newer), named[0]) == found
    assert exmapctl_json("snapshot", "diff", str(older), str(older))["runs"] == []
    assert "pages differ" in exmapctl("snapshot", "diff", *named).stdout


def test_snapshot_diff_refuses_what_it_cannot_compare(compared: tuple[SnapshotRegion, list[int]]) -> None:
    _, fds = compared
    mine = f"{os.getpid()}:{fds[0]}"
    stranger = SnapshotRegion(pages=1024, pool=64)
    stranger.write(1)
    fd = stranger.snapshot()
    for wrong, word in (
        (f"{os.getpid()}:{fd}", "different regions"),
        (f"{os.getpid()}:0", "no snapshot"),
        ("99999999", "no process"),
        ("x:y", "neither"),
    ):
        done = exmapctl("snapshot", "diff", mine, wrong)
        assert (done.exit_code, word in done.stderr) == (1, True), done.stderr
    os.close(fd)
    stranger.close()
    # nothing that was borrowed is left open
    links = [
        os.readlink(f"/proc/self/fd/{entry}")
        for entry in os.listdir("/proc/self/fd")
        if entry.isdigit() and os.path.lexists(f"/proc/self/fd/{entry}")
    ]
    assert sum("[exmap-snapshot]" in link for link in links) == 2
