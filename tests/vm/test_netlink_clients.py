"""The clients of the netlink family agree: on pyroute2, asynchronous or not, and without it. Needs root."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from exmap_netlink import AsyncClient, AsyncEvents, Client, DumpInterrupted, Event, NetlinkFailed, Reader
from netlink_behaviour import DEVICE, SnapshotRegion, as_user

import libexmap


@pytest.fixture
def regions() -> Iterator[None]:
    """Two regions, and two snapshots in a third."""
    third = SnapshotRegion(pages=1024, pool=64)
    third.write(10)
    snapshots = [third.snapshot(), third.snapshot(reserve=5)]
    with (
        libexmap.Region.open(pages=4096, pool=256, interfaces=2, backend="kernel") as first,
        libexmap.Region.open(pages=4096, pool=64, interfaces=1, backend="kernel"),
    ):
        first[0].alloc(range(100))
        first[1].alloc(range(200, 220))
        first[1].free(range(210, 215), lazy=True)
        yield
    for fd in snapshots:
        os.close(fd)
    third.close()


@pytest.mark.usefixtures("regions")
def test_the_reader_lists_what_the_client_lists() -> None:
    with Client() as client, Reader() as reader:
        assert len(reader.regions()) == 3
        assert reader.regions() == client.regions()
        assert reader.pools() == client.pools()
        assert len(reader.snapshots()) == 2
        assert reader.snapshots() == client.snapshots()
        assert reader.interfaces() == client.interfaces()
        for region in reader.regions():
            assert reader.interfaces(region.region) == client.interfaces(region.region)
            assert reader.snapshots(region.region) == client.snapshots(region.region)


class Disturbed:
    """A socket beside whose answers regions come, before the first of them is read."""

    def __init__(self, sock: socket.socket, times: int) -> None:
        self._socket = sock
        self._left = times
        self.opened: list[int] = []

    def send(self, data: bytes) -> None:
        self._socket.send(data)
        if self._left:
            self._left -= 1
            self.opened.append(os.open(DEVICE, os.O_RDWR))

    def recv(self, size: int) -> bytes:
        return self._socket.recv(size)

    def close(self) -> None:
        self._socket.close()
        for fd in self.opened:
            os.close(fd)


@pytest.mark.parametrize("times", [1, 2, 1000])
def test_the_reader_asks_again_when_something_has_changed_meanwhile(times: int) -> None:
    """It gives up if that does not end."""
    lasting = [os.open(DEVICE, os.O_RDWR) for _ in range(300)]
    with Reader() as reader:
        disturbed = Disturbed(reader._socket, times)
        reader._socket = disturbed  # type: ignore[assignment]
        if times < 1000:
            assert len(reader.regions()) == 300 + times
            assert len(disturbed.opened) == times
        else:
            with pytest.raises(DumpInterrupted):
                reader.regions()
    for fd in lasting:
        os.close(fd)


@pytest.mark.usefixtures("regions")
def test_the_reader_is_refused_what_the_client_is_refused() -> None:
    with Client() as client, Reader() as reader:
        for one in (client, reader):
            with pytest.raises(NetlinkFailed) as raised:
                one.interfaces(region=12345)
            assert raised.value.errno == errno.ENOENT

    def ask() -> int:
        with Reader() as own:
            return len(own.regions())

    assert as_user([], ask) == "EACCES"
    # the reader goes on after an error
    with Reader() as reader:
        with pytest.raises(NetlinkFailed):
            reader.snapshots(region=12345)
        assert len(reader.snapshots()) == 2


@pytest.mark.usefixtures("regions")
def test_the_asynchronous_client_answers_tasks_that_overlap() -> None:
    async def ask() -> None:
        async with AsyncClient() as client:
            first, second, third = (region.region for region in await client.regions())
            several = [client.region(number) for number in (first, second, third) * 5]
            answers = await asyncio.gather(*several, client.pools(), client.snapshots(), client.pool(second))
            assert [region.region for region in answers[:15]] == [first, second, third] * 5
            assert [pool.region for pool in answers[15]] == [first, second, third]
            assert {snapshot.region for snapshot in answers[16]} == {first}
            assert answers[17].mapped == 115
            await client.set(second, flush_threshold=50)
            assert (await client.region(second)).flush_threshold == 50
            with pytest.raises(NetlinkFailed) as raised:
                await client.set(second)
            assert raised.value.errno == errno.EINVAL

    asyncio.run(ask())


@pytest.mark.parametrize("times", [1, 2, 1000])
def test_the_asynchronous_client_asks_again_when_something_has_changed_meanwhile(times: int) -> None:
    """It gives up if that does not end."""
    opened: list[int] = [os.open(DEVICE, os.O_RDWR) for _ in range(300)]

    async def ask() -> None:
        async with AsyncClient() as client:
            request = client._socket.nlm_request

            async def disturbed(*arguments: Any, **options: Any) -> Any:
                answers = await request(*arguments, **options)
                if len(opened) < 300 + times:
                    opened.append(os.open(DEVICE, os.O_RDWR))
                return answers

            client._socket.nlm_request = disturbed
            if times < 1000:
                assert len(await client.regions()) == 300 + times
            else:
                with pytest.raises(DumpInterrupted):
                    await client.regions()

    asyncio.run(ask())
    for fd in opened:
        os.close(fd)


def test_the_asynchronous_client_gets_events_while_it_asks() -> None:
    async def follow() -> list[Event]:
        seen = []
        async with AsyncClient() as client, AsyncEvents(timeout=20) as events:
            region = libexmap.Region.open(pages=4096, pool=256, interfaces=2, backend="kernel")
            async for event in events:
                seen.append(event)
                if event.event == "region_created":
                    assert (await client.pool(event.region)).pool_pages == event.pool_pages == 256
                    region.close()
                if event.event == "region_gone":
                    return seen
        pytest.fail(f"no region_gone after {seen}")

    created, gone = asyncio.run(follow())
    assert created.region == gone.region
    assert created.pid == gone.pid == os.getpid()


def test_asynchronous_events_end_after_a_time_without_one() -> None:
    async def wait() -> list[Event]:
        async with AsyncEvents(timeout=0.3) as events:
            return [event async for event in events]

    assert asyncio.run(wait()) == []
