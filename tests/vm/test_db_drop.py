"""Tables that are dropped and renamed, on the kernel backend."""

from drop_behaviour import *  # noqa: F403
