"""These images have some thousand pixels: one thread is fastest, all the more on a busy machine. Tests of threading set their own number."""

import pytest


@pytest.fixture(autouse=True, scope="package")
def small_images(one_thread):
    """See tests/conftest.py."""
