"""Makes helpers such as `tiny_scenes` importable from every test folder; the fixture below is for folders that ask for it."""

import gc
from pathlib import Path

import pytest
import torch

SHARED_SCENES = Path(__file__).resolve().parents[2] / "shared" / "scenes"


@pytest.fixture(scope="session", autouse=True)
def _memory_is_measured_once():
    """`bench` takes the median of five goes, each after a garbage collection of all that the tests have imported: three quarters of their time."""
    patch = pytest.MonkeyPatch()
    patch.setattr("learn2splat.bench.lane.MEMORY_RUNS", 1)
    gc.collect()
    gc.freeze()
    yield
    patch.undo()


@pytest.fixture(scope="session")
def shared_scenes() -> Path:
    """The folder of real scenes beside the checkout: read-only, never copied into the project. Tests that need it fail without it."""
    if not (SHARED_SCENES / "SOURCES.md").is_file():
        pytest.fail(f"the real scenes are missing: expected them in {SHARED_SCENES} (../shared/scenes from the repository root)")
    return SHARED_SCENES


@pytest.fixture(scope="package")
def one_thread():
    """Where tensors are tiny, a second thread only waits for the first, all the more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
