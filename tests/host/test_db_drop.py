"""Tables that are dropped and renamed, on the posix backend."""

from drop_behaviour import *  # noqa: F403
