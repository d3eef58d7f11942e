"""Guests do not outlive the tests that boot them: what ends the tests unwinds them."""

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
