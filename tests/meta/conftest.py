"""A configuration and a photo scene so small that a meta-step takes milliseconds."""

from pathlib import Path

import pytest
from tiny_config import TINY
from tiny_scenes import write_colmap

from learn2splat.meta import MetaConfig
from learn2splat.meta.tasks import ScenePool


@pytest.fixture(autouse=True)
def _threads(one_thread):
    """All tests here run with one thread."""


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A COLMAP folder."""
    return write_colmap(tmp_path_factory.mktemp("photos") / "tiny", views=12)


@pytest.fixture(scope="session")
def tiny() -> MetaConfig:
    return MetaConfig(**TINY)


@pytest.fixture(scope="session")
def pool(tiny, photos, tmp_path_factory) -> ScenePool:
    return ScenePool(tiny, tmp_path_factory.mktemp("cache"), [photos])
