"""Guests without an IOMMU, or with one that does not remap interrupts: who may have a controller there."""

from pathlib import Path

import pytest
import suite
import vm

OWNER = "nvme_owner_without_interrupt_remapping_is_refused_or_can_raise_any_interrupt"
BACKING = "nvme_backing_reads_what_was_written"
REFUSED = """
import os, libexmap
with libexmap.Region.open(pages=64, pool=64, backend="kernel") as region:
    try:
        region.nvme(os.environ["EXMAP_NVME"])
    except libexmap.OwnershipRefused as error:
        assert "unsafe_interrupts=1" in str(error) and "CAP_SYS_RAWIO" in str(error)
        print("refused")
"""
SCRIPT = f"""
run() {{ sh ci/guest-abi.sh "$PROGRAM" "$1" || exit; }}
run {BACKING}
run {OWNER}
python -c '{REFUSED}' || exit
rmmod exmap && insmod "$EXMAP_KO" unsafe_interrupts=1 || exit
run {OWNER}
"""

OWNED = """
import os, libexmap
with libexmap.Region.open(pages=64, pool=64, backend="kernel") as region:
    region[0].alloc(range(64))
    with region.nvme(os.environ["EXMAP_NVME"]) as queue:
        for page in range(32):
            region.page(page)[:] = page + 1
        assert queue.write(range(32), range(0, 256, 8)) == 32
        assert queue.read(range(63, 31, -1), range(0, 256, 8)) == 32
        assert all((region.page(63 - page) == page + 1).all() for page in range(32))
        print("owned")
"""
UNPROTECTED = f"""
run() {{ sh ci/guest-abi.sh "$PROGRAM" "$1" || exit; }}
device=$(readlink -f "/sys/class/nvme/$(sh ci/guest-controller.sh exmap0)/device")
EXMAP_NVME=$(basename "$device")
export EXMAP_NVME
echo exmap-nvme >"$device/driver_override"
echo "$EXMAP_NVME" >"$device/driver/unbind"
! echo "$EXMAP_NVME" >/sys/bus/pci/drivers/exmap-nvme/bind || exit
dmesg | grep -q "no IOMMU protects memory from this controller; refused" || exit
[ $(($(cat /proc/sys/kernel/tainted) & 64)) = 0 ] || exit
rmmod exmap && insmod "$EXMAP_KO" unsafe_noiommu=1 || exit
[ -e "/sys/bus/pci/drivers/exmap-nvme/$EXMAP_NVME" ] || exit
[ $(($(cat /proc/sys/kernel/tainted) & 64)) = 64 ] || exit
run {BACKING}
python -c '{OWNED}' || exit
setpriv --bounding-set -sys_rawio --inh-caps -sys_rawio python -c '{REFUSED}'
"""


@pytest.mark.slow
def test_without_an_iommu_controllers_are_refused_unless_told_and_are_for_the_privileged(
    tmp_path: Path,
) -> None:
    guest = vm.Guest(nvme=("64M",), load=True, environment={"PROGRAM": str(suite.build_programs() / "abi")})
    result = vm.run(guest, ["sh", "-c", UNPROTECTED], out=tmp_path)
    assert (result.returncode, result.complaints) == (0, []), (tmp_path / "stderr").read_text()
    assert (tmp_path / "cases").read_text().split() == ["0", BACKING]
    assert (tmp_path / "stdout").read_text().endswith("owned\nrefused\n")


@pytest.mark.slow
def test_owners_are_refused_without_interrupt_remapping_unless_told(tmp_path: Path) -> None:
    guest = vm.Guest(
        nvme=("64M",),
        iommu=True,
        load=True,
        append=("intremap=off",),
        environment={"EXMAP_NO_REMAPPING": "1", "PROGRAM": str(suite.build_programs() / "abi")},
    )
    result = vm.run(guest, ["sh", suite.GUEST_NVME, "exmap0", "sh", "-c", SCRIPT], out=tmp_path)
    assert (result.returncode, result.complaints) == (0, [])
    assert (tmp_path / "cases").read_text().split() == ["0", BACKING, "0", OWNER, "0", OWNER]
    printed = (tmp_path / "stdout").read_text()
    assert printed.count("refused\n") == 1
    assert printed.count("interrupts of the owner's choice") == 1
