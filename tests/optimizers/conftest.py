"""These tests step tens of Gaussians: one thread is fastest, and on a busy machine the barriers of a second one cost twenty times the work."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
