"""The generic netlink family, through its client. Runs as root in the guest."""

import contextlib
import errno
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from exmap_netlink import (
    EVENT_INTERVAL,
    INTERFACE_CONTROL,
    Client,
    Command,
    Event,
    Events,
    NetlinkFailed,
)
from netlink_behaviour import DEVICE, SnapshotRegion, as_user, device_of
from netlink_raw import NETLINK_GENERIC, dump, family_number, read_some, start_dump
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR

import libexmap

GROUP = 4242
MANY = 200


@pytest.fixture
def client() -> Iterator[Client]:
    with Client() as opened:
        opened.set_event_interval(EVENT_INTERVAL)
        yield opened


def open_region(pool: int = 256, interfaces: int = 2) -> libexmap.Region:
    return libexmap.Region.open(pages=4096, pool=pool, interfaces=interfaces, backend="kernel")


def ours(client: Client) -> int:
    """The id of the newest region of this process."""
    return max(region.region for region in client.regions() if region.pid == os.getpid())


def test_a_region_is_what_its_owner_says(client: Client) -> None:
    with open_region() as owner:
        owner[0].alloc(range(100))
        owner[1].alloc(range(1000, 1050))
        owner[1].free(range(1000, 1020), lazy=True)
        region = client.region(ours(client))
        assert (region.pid, region.pages, region.interfaces) == (os.getpid(), 4096, 2)
        assert region.flush_threshold == owner.info.flush_threshold
        for name in ("allocs", "frees", "reads", "writes", "faults", "rescues", "flushes", "flush_ipis"):
            assert getattr(region, name) == getattr(owner.counters, name), name
        assert (region.allocs, region.frees, region.snapshots, region.dead) == (150, 20, 0, False)


def test_the_interfaces_counters_sum_up_to_the_regions(client: Client) -> None:
    with open_region() as owner:
        owner[0].alloc(range(100))
        owner[1].alloc(range(1000, 1050))
        owner[1].free(range(1000, 1020), lazy=True)
        region = client.region(ours(client))
        interfaces = client.interfaces(region.region)
        assert [itf.interface for itf in interfaces] == [0, 1, INTERFACE_CONTROL]
        assert [(itf.allocs, itf.frees, itf.ring) for itf in interfaces] == [
            (100, 0, 0),
            (50, 20, 20),
            (0, 0, 0),
        ]
        for name in ("allocs", "frees", "flushes", "flushes_ranged", "flush_ipis"):
            assert sum(getattr(itf, name) for itf in interfaces) == getattr(region, name), name
        for interface in interfaces:
            assert client.interface(region.region, interface.interface) == interface


def test_a_pool_is_conserved_at_every_moment(client: Client) -> None:
    with open_region() as owner:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                owner[0].alloc(range(200))
                owner[0].free(range(200), lazy=True)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            number = ours(client)
            pools = [client.pool(number) for _ in range(200)]
        finally:
            stop.set()
            thread.join()
        assert all(pool.conserved and pool.pool_pages == 256 for pool in pools)
        assert len({(pool.mapped, pool.quarantine) for pool in pools}) > 1


def test_a_region_before_setup_has_no_pool_and_no_interfaces(client: Client) -> None:
    fd = os.open(DEVICE, os.O_RDWR)
    try:
        number = ours(client)
        assert client.region(number).interfaces == 0
        assert client.interfaces(number) == []
        assert number not in [pool.region for pool in client.pools()]
        with pytest.raises(NetlinkFailed) as raised:
            client.pool(number)
        assert raised.value.errno == errno.ENOENT
    finally:
        os.close(fd)


def test_a_dump_has_each_lasting_region_once_while_others_come_and_go(client: Client) -> None:
    """Whatever is closed in between was neither here before nor stays."""
    family = family_number()
    lasting = [os.open(DEVICE, os.O_RDWR) for _ in range(MANY)]
    numbers, interrupted = dump(family)
    assert (len(numbers), interrupted) == (MANY, False)
    churn = os.fork()
    if churn == 0:
        while True:
            for fd in [os.open(DEVICE, os.O_RDWR) for _ in range(3)]:
                os.close(fd)
    try:
        dumps = [dump(family) for _ in range(100)]
    finally:
        os.kill(churn, signal.SIGKILL)
        os.waitpid(churn, 0)
    for found, _ in dumps:
        assert found == sorted(set(found))
        assert set(numbers) <= set(found)
    assert any(interrupted for _, interrupted in dumps)
    assert dump(family) == (numbers, False)
    for fd in lasting:
        os.close(fd)
    assert dump(family) == ([], False)


def test_a_dump_of_interfaces_resumes_within_a_region(client: Client) -> None:
    with open_region(interfaces=200), open_region(interfaces=150):
        first, second = (region.region for region in client.regions())
        assert dump(family_number(), Command.INTERFACE_GET) == ([first] * 201 + [second] * 151, False)
        assert len({itf.interface for itf in client.interfaces(second)}) == 151


def test_a_dump_of_snapshots_says_so_if_they_have_changed_meanwhile(client: Client) -> None:
    """The first part of an answer is made when it is asked for, the rest when that is read."""
    region = SnapshotRegion(pages=512, pool=64)
    fds = [region.snapshot() for _ in range(100)]
    number = ours(client)
    assert dump(family_number(), Command.SNAPSHOT_GET) == ([number] * 100, False)
    for change in (lambda: fds.append(region.snapshot()), lambda: os.close(fds.pop(0))):
        with start_dump(family_number(), Command.SNAPSHOT_GET) as sock:
            change()
            messages = read_some(sock)
            while messages[-1][0] != NLMSG_DONE:
                messages += read_some(sock)
        assert any(flags & NLM_F_DUMP_INTR for _, flags, _ in messages)
    for fd in fds:
        os.close(fd)
    region.close()


def test_settings_change_the_region_and_all_or_nothing(client: Client) -> None:
    with open_region() as owner:
        number = ours(client)
        client.set(number, flush_threshold=77, pool_pages=300)
        assert (owner.info.flush_threshold, owner.counters.total) == (77, 300)
        owner[0].alloc(range(280))
        with pytest.raises(NetlinkFailed) as raised:
            client.set(number, flush_threshold=99, pool_pages=100)
        assert raised.value.errno == errno.EBUSY
        assert (owner.info.flush_threshold, owner.counters.total) == (77, 300)
        client.set(number, pool_pages=290)
        assert owner.counters.total == 290


def locked_kib(pid: int) -> int:
    match = re.search(r"VmLck:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match.group(1))


@contextlib.contextmanager
def owner_in(group: Path | None = None) -> Iterator[tuple[int, int]]:
    """A process, in a control group, that has a region, and a descriptor of that."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            if group:
                (group / "cgroup.procs").write_text("0")
            region = SnapshotRegion(pages=4096, pool=256)
            socket.send_fds(theirs, [b"!"], [region.fd])
            signal.pause()
        os._exit(1)
    with ours, theirs:
        _, [fd], _, _ = socket.recv_fds(ours, 1, 1)
        try:
            yield child, fd
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(fd)


def region_of(client: Client, pid: int) -> int:
    return next(region.region for region in client.regions() if region.pid == pid)


def test_the_owner_is_charged_for_a_pool_that_an_administrator_has_grown(client: Client) -> None:
    with owner_in() as (owner, _):
        before = locked_kib(owner), locked_kib(os.getpid())
        client.set(region_of(client, owner), pool_pages=256 + 1000)
        assert (locked_kib(owner), locked_kib(os.getpid())) == (before[0] + 4000, before[1])


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory control group."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.subtree_control").exists() or not (root / "memory.stat").exists():
        pytest.skip("no cgroup v2 with a memory controller at /sys/fs/cgroup")
    (root / "cgroup.subtree_control").write_text("+memory")
    path = root / "exmap-netlink"
    path.mkdir()
    yield path
    path.rmdir()


def test_so_is_the_owners_control_group(client: Client, group: Path) -> None:
    with owner_in(group) as (owner, _):
        before = int((group / "memory.current").read_text())
        client.set(region_of(client, owner), pool_pages=256 + 10000)
        assert int((group / "memory.current").read_text()) - before > 9000 * 4096


def test_a_region_whose_process_is_gone_is_dead_and_not_to_be_changed(client: Client) -> None:
    with owner_in() as (owner, fd):
        number = region_of(client, owner)
        assert not client.region(number).dead
        kept = os.dup(fd)
    try:
        # the address space may outlive its process for a moment
        end = time.monotonic() + 20
        while not client.region(number).dead:
            assert time.monotonic() < end
        with pytest.raises(NetlinkFailed) as raised:
            client.set(number, pool_pages=512)
        assert raised.value.errno == errno.EPROTO
    finally:
        os.close(kept)


def ask_regions() -> list[int]:
    with Client() as client:
        return [region.region for region in client.regions()]


def test_the_devices_group_may_read_and_others_may_not(client: Client) -> None:
    with device_of(GROUP), open_region():
        number = ours(client)
        assert as_user([GROUP], ask_regions) == [number]
        assert as_user([], ask_regions) == "EACCES"

        def ask_one() -> int:
            with Client() as own:
                return own.region(number).region

        assert as_user([GROUP], ask_one) == number
        assert as_user([], ask_one) == "EACCES"


def test_the_device_as_it_was_when_the_region_was_opened_decides(client: Client) -> None:
    with device_of(GROUP):
        hers = open_region()
    number = ours(client)
    with open_region():
        assert as_user([GROUP], ask_regions) == [number]
        assert len(ask_regions()) == 2
    hers.close()


def test_who_opened_the_socket_decides(client: Client) -> None:
    """As with a file: privileges given up later take nothing back."""
    with open_region():
        number = ours(client)
        assert as_user([], lambda: [region.region for region in client.regions()]) == [number]


def test_settings_are_refused_without_privilege(client: Client) -> None:
    with device_of(GROUP), open_region() as owner:
        number = ours(client)

        def tune() -> None:
            with Client() as own:
                own.set(number, flush_threshold=5)

        def set_interval() -> None:
            with Client() as own:
                own.set_event_interval(100)

        before = owner.info.flush_threshold
        for groups in ([], [GROUP]):
            assert as_user(groups, tune) == "EPERM"
            assert as_user(groups, set_interval) == "EPERM"
        # not even with the socket of root
        assert as_user([], lambda: client.set(number, flush_threshold=5)) == "EPERM"
        assert as_user([GROUP], lambda: Events().close()) == "EPERM"
        assert (owner.info.flush_threshold, client.event_interval()) == (before, EVENT_INTERVAL)


# attributes by their numbers in the header, and their lengths
REGION, INTERFACE, SNAPSHOT, THRESHOLD, POOL_PAGES, INTERVAL = 2, 3, 4, 11, 14, 39
WIDE = (POOL_PAGES,)
UNKNOWN = 100


def error_of(command: int, attributes: dict[int, int], flags: int = NLM_F_ACK, cut: int = 0) -> int:
    """The errno of a request whose attributes are `cut` bytes too short."""
    payload = b""
    for number, value in attributes.items():
        data = value.to_bytes(8 if number in WIDE else 4, "little")
        data = data[: len(data) - cut]
        payload += struct.pack("=HH", 4 + len(data), number) + data + bytes(-len(data) % 4)
    family = family_number()
    header = struct.pack("=IHHIIBBH", 20 + len(payload), family, NLM_F_REQUEST | flags, 1, 0, command, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as sock:
        sock.sendto(header + payload, (0, 0))
        while True:
            data = sock.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return -int(struct.unpack_from("=i", data, 16)[0])
                data = data[(length + 3) & ~3 :]


def test_bad_attributes_are_refused(client: Client) -> None:
    with open_region():
        good = {REGION: ours(client)}
        for command in (Command.REGION_GET, Command.POOL_GET):
            assert error_of(command, good) == 0
            assert error_of(command, good, NLM_F_DUMP) == 0
            assert error_of(command, good, cut=1) == errno.EINVAL
            assert error_of(command, good, NLM_F_DUMP, cut=2) == errno.EINVAL
            assert error_of(command, {}) == errno.EINVAL
            assert error_of(command, good | {UNKNOWN: 1}) == errno.EINVAL
            assert error_of(command, good | {UNKNOWN: 1}, NLM_F_DUMP) == errno.EINVAL
            assert error_of(command, good | {POOL_PAGES: 5}) == errno.EINVAL
        assert error_of(Command.INTERFACE_GET, good) == errno.EINVAL
        assert error_of(Command.INTERFACE_GET, {INTERFACE: 0}, NLM_F_DUMP) == errno.EINVAL
        assert error_of(Command.SNAPSHOT_GET, good) == errno.EINVAL
        assert error_of(Command.SETTINGS_GET, {}) == 0
        assert error_of(Command.SETTINGS_GET, good) == errno.EINVAL


def test_bad_settings_are_refused(client: Client) -> None:
    with open_region() as owner:
        good = {REGION: ours(client)}
        assert error_of(Command.REGION_SET, good) == errno.EINVAL
        assert error_of(Command.REGION_SET, {THRESHOLD: 5}) == errno.EINVAL
        assert error_of(Command.REGION_SET, good | {THRESHOLD: 5}, cut=1) == errno.EINVAL
        assert error_of(Command.REGION_SET, good | {THRESHOLD: 5, UNKNOWN: 1}) == errno.EINVAL
        assert error_of(Command.SETTINGS_SET, {}) == errno.EINVAL
        for threshold in (0, 15361):
            assert error_of(Command.REGION_SET, good | {THRESHOLD: threshold}) == errno.ERANGE
        for pages in (0, (1 << 28) + 1, 1 << 63):
            assert error_of(Command.REGION_SET, good | {POOL_PAGES: pages}) == errno.ERANGE
        for interval in (0, 9, 3600001):
            assert error_of(Command.SETTINGS_SET, {INTERVAL: interval}) == errno.ERANGE
        assert owner.info.flush_threshold != 5
        assert owner.counters.total == 256


def test_what_does_not_exist_is_not_found(client: Client) -> None:
    with open_region():
        good = {REGION: ours(client)}
        absent = {REGION: ours(client) + 1000}
        assert error_of(Command.REGION_GET, absent) == errno.ENOENT
        assert error_of(Command.REGION_GET, absent, NLM_F_DUMP) == errno.ENOENT
        assert error_of(Command.REGION_SET, absent | {THRESHOLD: 5}) == errno.ENOENT
        for interface in (2, 3, INTERFACE_CONTROL - 1):
            assert error_of(Command.INTERFACE_GET, good | {INTERFACE: interface}) == errno.ENOENT
        assert error_of(Command.SNAPSHOT_GET, good | {SNAPSHOT: 1}) == errno.ENOENT
        for command in (Command.REGION_CREATED, 99):
            assert error_of(command, good) == errno.EOPNOTSUPP


def until(events: Events, last: str) -> list[Event]:
    """The events up to one of a kind; that it does not come within the time limit is a failure."""
    seen = []
    for event in events:
        seen.append(event)
        if event.event == last:
            return seen
    pytest.fail(f"no {last} after {seen}")


def test_events_tell_the_life_of_a_region_and_its_pool(client: Client) -> None:
    client.set_event_interval(100)
    with Events(timeout=20) as events:
        with open_region() as owner:
            number = ours(client)
            assert until(events, "region_created")[-1] == Event(
                "region_created", number, os.getpid(), interfaces=2, pool_pages=256
            )
            owner[0].alloc(range(240))
            assert not client.pool(number).low
            owner[0].alloc(range(240, 250))
            low = until(events, "pool_low")[-1]
            assert (low.region, low.pool_pages, low.available) == (number, 256, 6)
            assert client.pool(number).low
            # more than a sixteenth, and less than an eighth
            owner[0].free(range(20))
            time.sleep(0.5)
            assert client.pool(number).low
            owner[0].free(range(20, 250), lazy=True)
            assert until(events, "pool_recovered")[-1].available == 256
            assert not client.pool(number).low
        assert [event.event for event in until(events, "region_gone")] == ["region_gone"]


def test_pool_events_of_a_region_are_as_rare_as_the_interval_says(client: Client) -> None:
    interval = 0.5
    client.set_event_interval(int(interval * 1000))
    with Events(timeout=20) as events:
        with open_region() as owner:
            begin = time.monotonic()
            rounds = 0
            while time.monotonic() - begin < 5:
                owner[0].alloc(range(256))
                owner[0].free(range(256))
                rounds += 1
            elapsed = time.monotonic() - begin
        seen = [event.event for event in until(events, "region_gone")]
    told = [name for name in seen if name.startswith("pool_")]
    assert rounds > 4 * elapsed / interval
    assert len(told) <= elapsed / interval + 1
    assert told == ["pool_low", "pool_recovered"] * (len(told) // 2) + ["pool_low"] * (len(told) % 2)


def test_snapshots_are_listed_and_their_events_come(client: Client) -> None:
    with Events(timeout=20) as events:
        region = SnapshotRegion(pages=1024, pool=64)
        number = ours(client)
        region.write(40)
        fds = [region.snapshot(), region.snapshot(reserve=5)]
        older, newer = client.snapshots(number)
        assert (older.start, older.count, older.reserve, older.broken) == (0, 1024, 0, False)
        assert newer.reserve == 5
        assert client.region(number).snapshots == 2
        region.write(10)
        assert [snapshot.frames for snapshot in client.snapshots()] == [0, 10]
        assert client.snapshot(number, newer.snapshot).reserve == 0
        assert client.pool(number).snapshot_frames == 10
        region.write(40)
        assert [snapshot.broken for snapshot in client.snapshots()] == [True, True]
        for fd in fds:
            os.close(fd)
        assert client.snapshots() == []
        region.close()
        seen = [event for event in until(events, "region_gone") if event.event.startswith("snapshot_")]
    names = ["snapshot_created"] * 2 + ["snapshot_broken"] * 2 + ["snapshot_gone"] * 2
    assert [event.event for event in seen] == names
    assert [event.snapshot for event in seen] == [older.snapshot, newer.snapshot] * 3
    assert {(event.region, event.start, event.count) for event in seen} == {(number, 0, 1024)}
