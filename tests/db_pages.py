"""Read the last checkpoint in a file as dbms/native/{page,node,meta,map,free} have it, and check all of it.

Independent of the native core: whoever breaks a tree in it does not break this reader.
"""

import itertools
import struct
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Census", "check_file", "page_blocks", "read_meta", "read_pages"]

PAGE = 4096
HEADER = struct.Struct("<IIQQBBHI")
META = struct.Struct("<IIIIQQQQQQII")
NODE = struct.Struct("<QQHHHHHHL")
SLOT = struct.Struct("<HHHBBI")
REF = struct.Struct("<QII")
RAW = 1 << 31
MAGIC, INNER, LEAF, FREE, MAP, ROOT = 0x42445845, 2, 3, 4, 5, 6
SLOTS = (PAGE - HEADER.size) // 8
BLOCKS = (PAGE - HEADER.size) // 4
DIRECTORY = 1
FLAGS = 3 << 62  # of a root: dropped, and it has had large values
NODE_SPACE = PAGE - HEADER.size - NODE.size


@dataclass(slots=True)
class Node:
    """A page of a tree: used counts the bytes of the prefix, entries and slots.

    Its keys are whole; extents are first pages and lengths.
    """

    page: int
    level: int
    link: int
    prefix: bytes
    keys: list[bytes]
    values: list[bytes]
    used: int
    extents: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Census:
    """The pages of a database: for each root its nodes, in the order of a walk from left to right.

    runs: first page and length of those that are free.
    """

    trees: dict[int, list[Node]] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)

    def extents(self) -> list[int]:
        """Return the pages of all extents."""
        nodes = (node for nodes in self.trees.values() for node in nodes)
        return [
            page + i for node in nodes for page, length in node.extents for i in range(-(-length // PAGE))
        ]


@dataclass(slots=True)
class Meta:
    """What page 0 says."""

    log_blocks: int
    lsn: int
    next_page: int
    free_page: int
    nr_free: int
    nr_map: int
    clean: bool
    roots: tuple[int, ...]


def read_meta(file: bytes) -> Meta:
    """Read page 0; both copies are the same."""
    assert file[:PAGE] == file[PAGE : 2 * PAGE]
    assert header(file, 0) == (1, 0)
    _, _, log, _, _, lsn, next_page, free, nr_free, nr_map, clean, _ = META.unpack_from(file, HEADER.size)
    count = -(-nr_map // BLOCKS)
    roots = struct.unpack_from(f"<{count}I", file, HEADER.size + META.size)
    return Meta(log, lsn, next_page, free, nr_free, nr_map, bool(clean), roots)


def blocks_in(file: bytes, block: int, number: int, kind: int) -> tuple[int, ...]:
    """Return what a page of the map, or one of its roots, has."""
    page = file[block * PAGE : (block + 1) * PAGE]
    assert header(bytes(number * PAGE) + page, number) == (kind, 0)
    numbers = struct.unpack_from(f"<{BLOCKS}I", page, HEADER.size)
    if kind == ROOT:
        return numbers
    blocks, checksums = numbers[::2], numbers[1::2]
    for found, checksum in zip(blocks, checksums, strict=True):
        # that of a page without a header is for the native core alone to check
        sealed = found and not found & RAW
        assert not sealed or struct.unpack_from("<I", file, found * PAGE + 4) == (checksum,)
    return tuple(found & ~RAW for found in blocks)


def page_blocks(file: bytes) -> dict[int, int]:
    """Return where the last checkpoint's pages are, by number."""
    meta = read_meta(file)
    maps = [block for i, root in enumerate(meta.roots) for block in blocks_in(file, root, i, ROOT)]
    maps = maps[: meta.nr_map]
    found = [block for i, block in enumerate(maps) for block in blocks_in(file, block, i, MAP)]
    places = {page: block for page, block in enumerate(found) if block}
    used = [*meta.roots, *maps, *places.values()]
    assert len(set(used)) == len(used)
    assert min(used) >= 2 + meta.log_blocks
    return places


def read_pages(path: Path) -> bytes:
    """Return the last checkpoint's pages, page n at n times 4096."""
    file = path.read_bytes()
    data = bytearray(read_meta(file).next_page * PAGE)
    for page, block in page_blocks(file).items():
        data[page * PAGE : (page + 1) * PAGE] = file[block * PAGE : (block + 1) * PAGE]
    return bytes(data)


def check_file(path: Path) -> Census:
    """Check every page of every tree and on the free list; AssertionError. No page may be lost."""
    meta = read_meta(path.read_bytes())
    data = read_pages(path)
    census = Census()
    check_tree(data, DIRECTORY, census)
    free_page = meta.free_page
    for leaf in list(census.trees[DIRECTORY]):
        for root in leaf.values if not leaf.level else []:
            check_tree(data, int.from_bytes(root, "little") & ~FLAGS, census)
    while free_page:
        assert header(data, free_page) == (FREE, 0)
        census.free.append(free_page)
        (free_page,) = struct.unpack_from("<Q", data, free_page * PAGE + HEADER.size)
        assert len(census.free) <= meta.nr_free
    assert len(census.free) == meta.nr_free
    known = census.free + [node.page for nodes in census.trees.values() for node in nodes] + census.extents()
    unused = free_runs(census)
    assert not set(unused) & page_blocks(path.read_bytes()).keys()
    assert sorted(known + unused) == list(range(1, meta.next_page))
    return census


def free_runs(census: Census) -> list[int]:
    """Read the tree of free runs, and return their pages; AssertionError if two of them touch."""
    (root,) = (
        value
        for node in census.trees[DIRECTORY]
        for key, value in zip(node.keys, node.values, strict=False)
        if not node.level and key == bytes(4)
    )
    leaves = [node for node in census.trees[int.from_bytes(root, "little")] if not node.level]
    entries = [entry for node in leaves for entry in zip(node.keys, node.values, strict=True)]
    numbers = [[int.from_bytes(key[i : i + 8], "big") for i in range(1, len(key), 8)] for key, _ in entries]
    pairs = list(zip(entries, numbers, strict=True))
    by_place = [
        (first, int.from_bytes(value, "little")) for ((key, value), (first, *_)) in pairs if not key[0]
    ]
    by_length = [(first, length) for ((key, _), (length, *rest)) in pairs if key[0] for first in rest]
    assert sorted(by_length) == by_place
    assert all(first + length < after for (first, length), (after, _) in itertools.pairwise(by_place))
    census.runs = by_place
    return [first + i for first, length in by_place for i in range(length)]


def check_tree(data: bytes, root: int, census: Census) -> None:
    """Check the tree of a root, and the links of its leaves."""
    census.trees[root] = nodes = []
    walk(data, root, b"", None, None, nodes)
    leaves = [node for node in nodes if node.level == 0]
    assert [leaf.link for leaf in leaves] == [leaf.page for leaf in leaves[1:]] + [0]


def header(data: bytes, page: int) -> tuple[int, int]:
    """Return type and level of a page."""
    magic, _, number, _, kind, level, _, _ = HEADER.unpack_from(data, page * PAGE)
    assert (magic, number) == (MAGIC, page)
    return kind, level


def read_node(data: bytes, page: int) -> Node:
    kind, level = header(data, page)
    assert kind == (INNER if level else LEAF)
    start = page * PAGE
    link, _, count, begin, garbage, prefix_length, head_at, *_ = NODE.unpack_from(data, start + HEADER.size)
    slots_end = HEADER.size + NODE.size + count * SLOT.size
    end = PAGE - prefix_length
    prefix = data[start + end : start + PAGE]
    assert not prefix or (count and not level)
    node = Node(page, level, link, prefix, [], [], prefix_length + count * SLOT.size)
    for i in range(count):
        at = start + HEADER.size + NODE.size + i * SLOT.size
        offset, key_length, value_length, large, _, head = SLOT.unpack_from(data, at)
        assert begin <= offset <= end - key_length - value_length
        rest = data[start + offset : start + offset + key_length]
        assert head == int.from_bytes(rest[head_at:][:4].ljust(4, b"\0"), "big")
        assert not node.keys or rest[:head_at] == node.keys[0][prefix_length:][:head_at]
        node.keys.append(prefix + rest)
        node.values.append(data[start + offset + key_length : start + offset + key_length + value_length])
        node.used += key_length + value_length
        for ref in range(large):
            place = start + offset + key_length + value_length - (large - ref) * REF.size
            page_number, length, _ = REF.unpack_from(data, place)
            assert page_number
            assert length
            node.extents.append((page_number, length))
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
