"""The guest itself, where it is emulated: what its programs have to be spared."""

import ctypes
import mmap

import numpy as np
import pytest

pytestmark = pytest.mark.vm

PAGE = 4096


def test_numpy_sorts_arrays_that_end_where_the_mapping_does() -> None:
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with mmap.mmap(-1, 2 * PAGE) as memory:
        byte = ctypes.c_char.from_buffer(memory)
        end = ctypes.addressof(byte) + PAGE
        assert not libc.mprotect(end, PAGE, 0)
        for n in range(2, PAGE // 8, 3):
            array = np.frombuffer((ctypes.c_int64 * n).from_address(end - 8 * n), np.int64)
            array[:] = np.arange(n)[::-1]
            array.sort()
            assert (array == np.arange(n)).all()
        del array, byte
