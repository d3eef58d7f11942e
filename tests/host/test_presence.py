"""The presence check that programs compile in says what the residency map's specification says."""

import itertools
import subprocess
from pathlib import Path

import numpy as np
from libexmap._ffi import ffi, lib

ROOT = Path(__file__).resolve().parents[2]
FRAME_BITS = 29
FRAME_MASK = (1 << FRAME_BITS) - 1
BUSY, LAZY, SNAPSHOT = 1 << 29, 1 << 30, 1 << 31
FLAGS = [
    busy | lazy | snapshot for busy, lazy, snapshot in itertools.product((0, BUSY), (0, LAZY), (0, SNAPSHOT))
]
FRAMES = sorted(
    {0, 1, 2, 3, FRAME_MASK - 1, FRAME_MASK}
    | {1 << bit for bit in range(FRAME_BITS)}
    | {(1 << bit) - 1 for bit in range(FRAME_BITS)}
)
WORDS = np.array([flags | frame for flags in FLAGS for frame in FRAMES], dtype=np.uint32)

PROGRAM = """
#include <stdio.h>
#include "exmap_user.h"
int main(void)
{
	uint32_t word;
	struct exmap ex = { .residency = &word };
	while (scanf("%u", &word) == 1)
		printf("%d %d %u\\n", exmap_is_mapped(&ex, 0), !!EXMAP_RES_MAPPED(word), EXMAP_RES_FRAME(word));
	return 0;
}
"""


def specified(word: int) -> bool:
    """Tell what uapi/exmap.h says in prose: a frame, and neither BUSY nor LAZY; SNAPSHOT does not matter."""
    return word & FRAME_MASK != 0 and not word & (BUSY | LAZY)


def test_the_bits_of_a_word_are_those_that_are_tried_here() -> None:
    assert lib.EXMAP_RES_FRAME_MASK == FRAME_MASK
    assert (lib.EXMAP_RES_BUSY, lib.EXMAP_RES_LAZY, lib.EXMAP_RES_SNAPSHOT) == (BUSY, LAZY, SNAPSHOT)
    assert FRAME_MASK | BUSY | LAZY | SNAPSHOT == 0xFFFFFFFF
    assert len(set(WORDS.tolist())) == len(FLAGS) * len(FRAMES)


def test_is_mapped_in_c_is_the_macro_and_the_specification(tmp_path: Path) -> None:
    (tmp_path / "words.c").write_text(PROGRAM)
    for options in (["-O0"], ["-O2"]):
        program = tmp_path / "words"
        includes = [f"-I{ROOT / 'libexmap/include'}", f"-I{ROOT / 'kmod/uapi'}"]
        flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", *options, *includes]
        subprocess.run(["gcc", *flags, str(tmp_path / "words.c"), "-o", str(program)], check=True)
        done = subprocess.run(
            [str(program)], input="\n".join(map(str, WORDS)), stdout=subprocess.PIPE, text=True, check=True
        )
        lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
        assert len(lines) == WORDS.size
        for word, (inline, macro, frame) in zip(WORDS.tolist(), lines, strict=True):
            assert (inline, macro) == (specified(word), specified(word)), hex(word)
            assert frame == ((word & FRAME_MASK) - 1) & 0xFFFFFFFF, hex(word)


def test_is_mapped_of_the_bindings_is_the_specification() -> None:
    residency = WORDS.copy()
    region = ffi.new("struct exmap *")
    region.residency = ffi.cast("const uint32_t *", residency.ctypes.data)
    region.region_pages = residency.size
    found = [bool(lib.exmap_ffi_is_mapped(region, page)) for page in range(residency.size)]
    assert found == [specified(word) for word in WORDS.tolist()]
