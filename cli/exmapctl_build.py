"""Build exmapctl._bench: the hot loops of the benches, with libexmap compiled in."""

from pathlib import Path

from cffi import FFI

__all__ = ["ffibuilder"]

# setuptools wants sources relative to the project's root
ROOT = Path(__file__).resolve().parents[1]
NATIVE = ["cli/native/run.c", "cli/native/pages.c", "cli/native/presence.c", "cli/native/proof.c"]
LIBEXMAP = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "libexmap/src").glob("*.c") if path.name != "ffi.c"
)

CDEF = """
static const uint64_t BENCH_NO_COUNT;
static const int BENCH_MAX_THREADS;
static const int EXMAP_BACKEND_AUTO, EXMAP_BACKEND_KERNEL, EXMAP_BACKEND_POSIX;
static const uint64_t EXMAP_FREE_LAZY;
static const unsigned long EXMAP_IOCTL_INFO;

struct bench_time { uint64_t warmup_ns; uint64_t measure_ns; };
struct bench_result {
    uint64_t ops; uint64_t wall_ns; uint64_t cpu_ns; uint64_t tlb_ipis; uint64_t call_ipis; ...;
};

struct exmap_info {
    uint32_t abi_version; uint32_t page_size; uint64_t features; uint32_t chunk_pages; ...;
};
struct exmap_counters { uint64_t allocs; uint64_t rescues; uint64_t flushes; uint64_t flush_ipis; ...; };

enum pages_how { PAGES_EXMAP, PAGES_MADVISE_PAGE, PAGES_MADVISE_RANGE, PAGES_PROCESS_MADVISE, ... };
struct pages_config {
    uint32_t backend; uint32_t threads; uint64_t pool_pages; uint64_t region_pages; uint64_t seed;
};
struct pages_way { uint32_t how; uint32_t vector; uint64_t flags; };
struct pages_bench;
int pages_open(const struct pages_config *config, struct pages_bench **out);
void pages_close(struct pages_bench *bench);
bool pages_supported(const struct pages_bench *bench, unsigned int how);
uint32_t pages_backend(const struct pages_bench *bench);
int pages_run(struct pages_bench *bench, const struct pages_way *way, const int *cpus,
              unsigned int threads, const struct bench_time *time, struct bench_result *result);
int pages_counters(struct pages_bench *bench, struct exmap_counters *counters);

enum presence_how {
    PRESENCE_RESIDENCY, PRESENCE_SCAN, PRESENCE_SCAN_RANGE, PRESENCE_PAGEMAP, PRESENCE_PAGEMAP_RANGE,
    PRESENCE_MINCORE, PRESENCE_PAGEMAP_SCAN, ...
};
struct presence_bench;
struct presence_proof { uint64_t checks; uint64_t syscalls; uint64_t control; };
int presence_open(uint32_t backend, uint64_t region_pages, uint64_t seed, struct presence_bench **out);
void presence_close(struct presence_bench *bench);
bool presence_supported(struct presence_bench *bench, unsigned int how);
uint32_t presence_backend(const struct presence_bench *bench);
int presence_run(struct presence_bench *bench, unsigned int how, int cpu,
                 const struct bench_time *time, struct bench_result *result);
long presence_verify(struct presence_bench *bench, unsigned int how);
int presence_prove(struct presence_bench *bench, uint64_t checks, struct presence_proof *proof);
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "exmapctl._bench",
    '#include "bench.h"',
    sources=NATIVE + LIBEXMAP,
    include_dirs=["cli/native", "libexmap/include", "libexmap/src", "kmod/uapi"],
    depends=["cli/native/bench.h", "libexmap/include/exmap_user.h", "kmod/uapi/exmap.h"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread"],
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
