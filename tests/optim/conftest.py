"""All tests of the fit loop run on tiny scenes."""

import pytest


@pytest.fixture(autouse=True, scope="package")
def _on_one_thread(one_thread):
    """See tests/conftest.py."""
