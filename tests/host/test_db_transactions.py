"""Transactions of several calls, on the posix backend."""

from transaction_behaviour import *  # noqa: F403
