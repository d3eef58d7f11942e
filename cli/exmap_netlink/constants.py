"""The numbers of kmod/uapi/exmap_netlink.h; a test compares them with the header."""

from enum import IntEnum

__all__ = [
    "ATTRIBUTES",
    "EVENT_INTERVAL",
    "EVENT_INTERVAL_MAX",
    "EVENT_INTERVAL_MIN",
    "FAMILY",
    "GROUP_EVENTS",
    "INTERFACE_CONTROL",
    "VERSION",
    "Command",
]

FAMILY = "exmap"
VERSION = 1
GROUP_EVENTS = "events"
INTERFACE_CONTROL = 0xFFFFFFFF

# milliseconds
EVENT_INTERVAL = 1000
EVENT_INTERVAL_MIN = 10
EVENT_INTERVAL_MAX = 3600000


class Command(IntEnum):
    """EXMAP_GENL_CMD_*: requests, then events."""

    UNSPEC = 0
    REGION_GET = 1
    INTERFACE_GET = 2
    POOL_GET = 3
    SNAPSHOT_GET = 4
    SETTINGS_GET = 5
    REGION_SET = 6
    SETTINGS_SET = 7
    REGION_CREATED = 8
    REGION_GONE = 9
    POOL_LOW = 10
    POOL_RECOVERED = 11
    SNAPSHOT_CREATED = 12
    SNAPSHOT_BROKEN = 13
    SNAPSHOT_GONE = 14
    CONTROLLER_LOST = 15
    CONTROLLER_BACK = 16
    QUEUE_ERROR = 17


# EXMAP_GENL_A_* in the order of their numbers, with pyroute2's names of their types
ATTRIBUTES = (
    ("UNSPEC", "none"),
    ("PAD", "hex"),
    ("REGION", "uint32"),
    ("INTERFACE", "uint32"),
    ("SNAPSHOT", "uint32"),
    ("PID", "uint32"),
    ("SETUP_FLAGS", "uint64"),
    ("PAGES", "uint64"),
    ("BACKING_PAGES", "uint64"),
    ("INTERFACES", "uint32"),
    ("SNAPSHOTS", "uint32"),
    ("FLUSH_THRESHOLD", "uint32"),
    ("QUARANTINE_LIMIT", "uint32"),
    ("DEAD", "flag"),
    ("POOL_PAGES", "uint64"),
    ("FREE", "uint64"),
    ("MAPPED", "uint64"),
    ("QUARANTINE", "uint64"),
    ("BUSY", "uint64"),
    ("SNAPSHOT_FRAMES", "uint64"),
    ("PINNED", "uint64"),
    ("LOW", "flag"),
    ("AVAILABLE", "uint64"),
    ("RING", "uint32"),
    ("ALLOCS", "uint64"),
    ("FREES", "uint64"),
    ("READS", "uint64"),
    ("WRITES", "uint64"),
    ("FAULTS", "uint64"),
    ("RESCUES", "uint64"),
    ("FLUSHES", "uint64"),
    ("FLUSHES_RANGED", "uint64"),
    ("FLUSH_IPIS", "uint64"),
    ("COPIES", "uint64"),
    ("START", "uint64"),
    ("COUNT", "uint64"),
    ("RESERVE", "uint64"),
    ("FRAMES", "uint64"),
    ("BROKEN", "flag"),
    ("EVENT_INTERVAL", "uint32"),
    ("CONTROLLER", "uint32"),
    ("ERROR", "uint32"),
    ("QUEUE", "uint32"),
    ("COMMANDS", "uint32"),
    ("STATUS", "uint32"),
)
