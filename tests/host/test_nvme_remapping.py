"""A guest that does not say which interrupts a device may raise: who may have a controller there."""

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
        assert "unsafe_interrupts=1" in str(error)
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
