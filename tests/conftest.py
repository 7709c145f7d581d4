"""Makes helpers such as `tiny_scenes` importable from every test folder; the fixture below is for folders that ask for it."""

import pytest
import torch


@pytest.fixture(scope="package")
def one_thread():
    """Where tensors are tiny, a second thread only waits for the first, all the more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
