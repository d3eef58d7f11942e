"""Build exmapctl._bench: the hot loops of the benches, with libexmap compiled in."""

from pathlib import Path

from cffi import FFI

__all__ = ["ffibuilder"]

# setuptools wants sources relative to the project's root
ROOT = Path(__file__).resolve().parents[1]
NATIVE = [
    f"cli/native/{name}.c"
    for name in (
        *("run", "pages", "presence", "proof"),
        *("orders", "snapshot", "traffic", "forked", "uffd"),
        *("nvme", "nvme_kernel", "nvme_latency", "nvme_uring"),
    )
]
LIBEXMAP = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "libexmap/src").glob("*.c") if path.name != "ffi.c"
)

CDEF = """
static const uint64_t BENCH_NO_COUNT;
static const int BENCH_MAX_THREADS;
static const int EXMAP_BACKEND_AUTO, EXMAP_BACKEND_KERNEL, EXMAP_BACKEND_POSIX;
static const uint64_t EXMAP_FREE_LAZY, EXMAP_READERS_COPY;
static const unsigned long EXMAP_IOCTL_INFO;

struct bench_time { uint64_t warmup_ns; uint64_t measure_ns; };
struct bench_result {
    uint64_t ops; uint64_t wall_ns; uint64_t cpu_ns; uint64_t tlb_ipis; uint64_t call_ipis; ...;
};

struct exmap_info {
    uint32_t abi_version; uint32_t page_size; uint64_t features; uint32_t chunk_pages; ...;
};
struct exmap_counters {
    uint64_t allocs; uint64_t rescues; uint64_t flushes; uint64_t flush_ipis;
    uint64_t copies; ...;
};

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
struct bench_proof { uint64_t syscalls; uint64_t control; };
int presence_open(uint32_t backend, uint64_t region_pages, uint64_t seed, struct presence_bench **out);
void presence_close(struct presence_bench *bench);
bool presence_supported(struct presence_bench *bench, unsigned int how);
uint32_t presence_backend(const struct presence_bench *bench);
int presence_run(struct presence_bench *bench, unsigned int how, int cpu,
                 const struct bench_time *time, struct bench_result *result);
long presence_verify(struct presence_bench *bench, unsigned int how);
int presence_prove(struct presence_bench *bench, uint64_t checks, struct bench_proof *proof);

enum nvme_how {
    NVME_USER, NVME_PREAD, NVME_URING, NVME_URING_FIXED, NVME_PASSTHROUGH, NVME_KERNEL,
    NVME_USER_SHADOW, ...
};
struct nvme_config {
    uint32_t how; uint32_t threads; uint32_t polled; const char *device; uint64_t pages; uint64_t seed;
};
struct nvme_bench;
int nvme_open(const struct nvme_config *config, struct nvme_bench **out);
void nvme_close(struct nvme_bench *bench);
long nvme_verify(struct nvme_bench *bench);
int nvme_run(struct nvme_bench *bench, bool write, unsigned int depth, const int *cpus,
             unsigned int threads, const struct bench_time *time, struct bench_result *result,
             double *calls_per_io);
int nvme_count(struct nvme_bench *bench, bool write, unsigned int depth, unsigned int rounds,
               struct bench_result *result);
struct nvme_latency { double p50; double p99; double p999; double max; };
int nvme_time(struct nvme_bench *bench, bool write, unsigned int depth, size_t transfers,
    struct nvme_latency *latency);
int nvme_prove(struct nvme_bench *bench, unsigned int depth, uint64_t transfers,
               struct bench_proof *proof);

uint64_t bench_shootdowns_on(const int *cpus, unsigned int n);
static const int SNAPSHOT_BUCKET_NS, SNAPSHOT_MAX_WRITERS, SNAPSHOT_SLOTS;
enum snapshot_how { SNAPSHOT_EXMAP, SNAPSHOT_FORK, SNAPSHOT_UFFD, ... };
enum snapshot_reader { SNAPSHOT_READ_NOTHING, SNAPSHOT_READ_VIEW, SNAPSHOT_READ_PREAD, ... };
enum snapshot_phase { SNAPSHOT_BEFORE, SNAPSHOT_SCAN, SNAPSHOT_DROP, SNAPSHOT_AFTER, ... };
struct snapshot_orders;
int snapshot_orders_make(uint32_t pages, uint32_t writers, uint32_t len, double theta, uint64_t seed,
                         struct snapshot_orders **out);
void snapshot_orders_free(struct snapshot_orders *orders);
const uint32_t *snapshot_order(const struct snapshot_orders *orders, unsigned int writer, uint32_t *len);
struct snapshot_config { uint32_t how; uint32_t writers; uint32_t pages; uint64_t pool_pages; };
struct snapshot_bench;
int snapshot_open(const struct snapshot_config *config, struct snapshot_bench **out);
void snapshot_close(struct snapshot_bench *bench);
bool snapshot_supported(uint32_t how);
struct snapshot_scan { uint64_t digest; uint64_t torn; };
int snapshot_freeze(struct snapshot_bench *bench, uint32_t flags);
int snapshot_scan_copy(struct snapshot_bench *bench, unsigned int reader, struct snapshot_scan *scan);
int snapshot_drop(struct snapshot_bench *bench);
uint8_t *snapshot_memory(const struct snapshot_bench *bench);
int snapshot_counters(struct snapshot_bench *bench, struct exmap_counters *counters);
struct snapshot_idle { uint64_t freeze_ns; uint64_t drop_ns; };
int snapshot_run_idle(struct snapshot_bench *bench, struct snapshot_idle *idle);
struct snapshot_plan {
    uint32_t reader; uint32_t writers; uint32_t unshare; uint32_t flags; uint32_t verify;
    uint64_t warmup_ns; uint64_t before_ns; uint64_t after_ns;
};
struct snapshot_latency {
    uint64_t ops; uint64_t wall_ns; uint64_t p50_ns; uint64_t p99_ns; uint64_t p999_ns; uint64_t max_ns;
};
struct snapshot_result {
    uint64_t flush_ns; uint64_t freeze_ns; uint64_t scan_ns; uint64_t unmap_ns; uint64_t drop_ns;
    uint64_t shootdowns;
    uint64_t faults; uint64_t torn; uint64_t unequal;
    uint64_t frozen_ns; uint64_t scanned_ns; uint64_t dropped_ns;
    struct snapshot_latency phases[...]; uint32_t buckets; uint32_t timeline[...];
};
int snapshot_run(struct snapshot_bench *bench, const struct snapshot_orders *orders,
                 const struct snapshot_plan *plan, const int *cpus, struct snapshot_result *result);
uint32_t snapshot_slot(uint64_t value);
uint64_t snapshot_slot_end(uint32_t slot);
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "exmapctl._bench",
    '#include "snapshot.h"\n#include "nvme.h"',
    sources=NATIVE + LIBEXMAP,
    include_dirs=["cli/native", "libexmap/include", "libexmap/src", "kmod/uapi"],
    depends=[
        "cli/native/bench.h",
        "cli/native/snapshot.h",
        "cli/native/nvme.h",
        "libexmap/include/exmap_user.h",
        "libexmap/include/exmap_nvme.h",
        "kmod/uapi/exmap.h",
        "kmod/uapi/exmap_nvme_abi.h",
    ],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread"],
    extra_link_args=["-pthread", "-lm"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
