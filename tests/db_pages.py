"""Read a closed database's file as dbms/native/{page,node,meta,free} describe it, and check all of it.

Independent of the native core: whoever breaks a tree in it does not break this reader.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Census", "check_file"]

PAGE = 4096
HEADER = struct.Struct("<IIQQBBHI")
META = struct.Struct("<IIIIQQQ")
NODE = struct.Struct("<QQHHHHQ")
SLOT = struct.Struct("<HHHHI")
MAGIC, INNER, LEAF, FREE, CLOSED = 0x42445845, 2, 3, 4, 1
NODE_SPACE = PAGE - HEADER.size - NODE.size


@dataclass(slots=True)
class Node:
    """A page of a tree: used counts the bytes of entries and slots."""

    page: int
    level: int
    link: int
    keys: list[bytes]
    values: list[bytes]
    used: int


@dataclass(slots=True)
class Census:
    """The pages of a database: for each root its nodes, in the order of a walk from left to right."""

    trees: dict[int, list[Node]] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)


def check_file(path: Path, roots: tuple[int, ...] = (1, 2, 3)) -> Census:
    """Check every page below the roots and on the free list; AssertionError. No page may be lost."""
    data = path.read_bytes()
    _, _, state, _, next_page, free_page, nr_free = META.unpack_from(data, HEADER.size)
    assert state == CLOSED
    census = Census()
    for root in roots:
        census.trees[root] = nodes = []
        walk(data, root, b"", None, None, nodes)
        leaves = [node for node in nodes if node.level == 0]
        assert [leaf.link for leaf in leaves] == [leaf.page for leaf in leaves[1:]] + [0]
    while free_page:
        assert header(data, free_page) == (FREE, 0)
        census.free.append(free_page)
        (free_page,) = struct.unpack_from("<Q", data, free_page * PAGE + HEADER.size)
        assert len(census.free) <= nr_free
    assert len(census.free) == nr_free
    known = census.free + [node.page for nodes in census.trees.values() for node in nodes]
    assert sorted(known) == list(range(1, next_page))
    return census


def header(data: bytes, page: int) -> tuple[int, int]:
    """Return type and level of a page."""
    magic, _, number, _, kind, level, _, _ = HEADER.unpack_from(data, page * PAGE)
    assert (magic, number) == (MAGIC, page)
    return kind, level


def read_node(data: bytes, page: int) -> Node:
    kind, level = header(data, page)
    assert kind == (INNER if level else LEAF)
    start = page * PAGE
    link, _, count, begin, garbage, _, _ = NODE.unpack_from(data, start + HEADER.size)
    slots_end = HEADER.size + NODE.size + count * SLOT.size
    node = Node(page, level, link, [], [], count * SLOT.size)
    for i in range(count):
        at = start + HEADER.size + NODE.size + i * SLOT.size
        offset, key_length, value_length, _, head = SLOT.unpack_from(data, at)
        assert begin <= offset <= PAGE - key_length - value_length
        key = data[start + offset : start + offset + key_length]
        assert head == int.from_bytes(key[:4].ljust(4, b"\0"), "big")
        node.keys.append(key)
        node.values.append(data[start + offset + key_length : start + offset + key_length + value_length])
        node.used += key_length + value_length
    assert slots_end <= begin
    assert node.used - count * SLOT.size + garbage == PAGE - begin
    return node


def walk(
    data: bytes, page: int, low: bytes, high: bytes | None, level: int | None, nodes: list[Node]
) -> None:
    """Append the nodes from a page on, left to right; its keys must be in [low, high)."""
    node = read_node(data, page)
    assert level is None or node.level == level
    nodes.append(node)
    assert all(a < b for a, b in zip(node.keys, node.keys[1:], strict=False))
    assert all(low <= key for key in node.keys)
    assert high is None or all(key < high for key in node.keys)
    if not node.level:
        return
    bounds = [low, *node.keys, high]
    children = [struct.unpack("<Q", value)[0] for value in node.values] + [node.link]
    for i, child in enumerate(children):
        lower = bounds[i]
        assert lower is not None
        walk(data, child, lower, bounds[i + 1], node.level - 1, nodes)
