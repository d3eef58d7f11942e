"""NVMe queues on both backends, side by side."""

from nvme_behaviour import *  # noqa: F403
