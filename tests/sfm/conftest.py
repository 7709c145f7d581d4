"""Photos of a made-up world whose cameras are known exactly, as PNG and JPEG files with awkward names."""

import pytest
from odd_names import NAMES
from PIL import Image

from learn2splat.scenes import make_procedural_scene


@pytest.fixture(scope="session")
def world():
    """The scene with its true poses."""
    return make_procedural_scene(0, layout="forward", num_views=8, width=288, height=216)


@pytest.fixture(scope="session")
def photos(world, tmp_path_factory):
    """Its photos, and one that is broken; not to be changed."""
    folder = tmp_path_factory.mktemp("sfm") / "my photos"
    folder.mkdir()
    for name, image in zip(NAMES, world.images):
        Image.fromarray(image.numpy()).save(folder / name, **({"quality": 95} if name.endswith("jpg") else {}))
    (folder / "broken.jpg").write_bytes((folder / NAMES[0]).read_bytes()[:3000])
    return folder


@pytest.fixture(scope="session")
def found(photos, tmp_path_factory):
    """(the scene that `reconstruct` makes of them, its outcome, which stages it told of)."""
    from learn2splat.sfm import reconstruct

    out, stages = tmp_path_factory.mktemp("sfm") / "scene", {}
    outcome = reconstruct(photos, out, on_progress=lambda stage, done, total: stages.update({stage: (done, total)}))
    return out, outcome, stages
