"""Marks what executes a whole notebook, for `make test-fast`."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    folder = Path(__file__).parent
    for item in items:
        if item.path.parent == folder and item.path.name != "test_hygiene.py":
            item.add_marker(pytest.mark.notebook)
    # the longest first, so that the processes of pytest-xdist end together
    items.sort(key=lambda item: item.get_closest_marker("notebook") is None)
