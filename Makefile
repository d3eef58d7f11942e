# The two commands a newcomer needs: make demo, make test.  All others build on
# the same set-up and may be run at any time.

PY := .venv/bin/python
DEMO_KERNEL ?= 6.12
BACKEND ?= kernel
STORAGE ?= nvme
FUZZ_SECONDS ?= 600
KILLS ?= 300
POWER_FAILURES ?= 20

help:
	@echo "make demo                   load real data into exmapdb in a guest, and check it"
	@echo "  BACKEND=posix  without a guest   STORAGE=block  on a block device, not on NVMe queues"
	@echo "make test                   lint, host tests, a power failure, the VM suite on both kernels"
	@echo "make test-debug             the VM suite under KASAN, lockdep and kmemleak (ci/debug-kernel)"
	@echo "make test-kcsan             the VM suite where data races are reported (ci/debug-kernel)"
	@echo "make test-matrix            the VM suite on 6.1, 6.12 and 7.2 (Debian sid, in a chroot)"
	@echo "make fuzz                   damaged databases, at random, for FUZZ_SECONDS (600)"
	@echo "make crash                  kill exmapdb, and guests that run it, many times: transfers and TPC-C"
	@echo "  KILLS=300  of the process   POWER_FAILURES=20  of the guest"
	@echo "make bench                  the benches, in a guest; compares with docs/bench"
	@echo "make coverage               which lines of the module the tests execute"
	@echo "make lint  make docs  make setup  make clean"

setup:
	@ci/setup

demo: setup
ifeq ($(BACKEND),posix)
	@.venv/bin/exmapdb demo --backend posix
else ifeq ($(STORAGE),nvme)
	@ci/vm run --kernel $(DEMO_KERNEL) --nvme 1G --iommu --load -- \
		sh ci/guest-nvme.sh exmap0 sh -c 'exmapdb demo --backend kernel --device nvme:$$EXMAP_NVME'
else
	@ci/vm run --kernel $(DEMO_KERNEL) --nvme 1G --load -- exmapdb demo --backend kernel --device /dev/nvme0n1
endif

test: setup
	@$(PY) ci/suite.py lint+crash host vm:6.1+vm:6.12 vm-short:debug

test-host: setup
	@$(PY) ci/suite.py lint host

test-debug: setup
	@$(PY) ci/suite.py vm-faults:debug vm:debug@1/2+vm:debug@2/2

test-kcsan: setup
	@$(PY) ci/suite.py vm-short:debug-kcsan vm:debug-kcsan@1/2+vm:debug-kcsan@2/2

test-matrix: setup
	@ci/chroot-kernel sid
	@$(PY) ci/matrix.py $(if $(WRITE),--write)

fuzz: setup
	@EXMAP_FUZZ_SECONDS=$(FUZZ_SECONDS) EXMAP_FUZZ_SEED=$$(date +%s) $(PY) -m pytest -q -k damaged tests/host/test_db_native.py

crash: setup
	@EXMAP_KILLS=$(KILLS) EXMAP_POWER_FAILURES=$(POWER_FAILURES) $(PY) -m pytest -q -s -p no:cacheprovider \
		--slow -k "at_length or killed_terminals" tests/host/test_db_crash.py tests/host/test_db_power.py \
		tests/host/test_db_tpcc.py tests/crash

bench: setup
	@$(PY) ci/bench.py

coverage: setup
	@$(PY) ci/coverage.py

lint: setup
	@$(PY) ci/lint.py

docs: setup
	@$(PY) ci/abidoc.py
	@$(PY) -m exmapctl.docs

clean:
	rm -rf build dist *.egg-info

.PHONY: help setup demo test test-host test-debug test-kcsan test-matrix fuzz crash bench coverage lint docs clean
