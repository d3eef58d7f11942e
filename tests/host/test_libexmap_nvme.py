"""NVMe queues on the posix backend."""

from nvme_behaviour import *  # noqa: F403
