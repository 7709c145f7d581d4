"""Checkpoints: exact, never half, damage is noticed, nothing is unpickled."""

import errno
import os
import pickle

import pytest
import safetensors.torch
import torch
from tiny_scenes import blobs, tiny_scene

from learn2splat.errors import CheckpointError, SaveError
from learn2splat.fit import files
from learn2splat.fit.checkpoint import FILE_NAME, check_same_run, fingerprint, load_checkpoint, save_checkpoint

TENSORS = {"a": torch.randn(5, 3), "b": torch.arange(4), "empty": torch.zeros(0, dtype=torch.int64), "scalar": torch.tensor(2.5)}
INFO = {"step": 7, "seconds": 0.1 + 0.2, "curve": [{"step": 0, "psnr": 12.5}]}


def test_round_trip_is_exact(tmp_path):
    save_checkpoint(tmp_path / "new" / "folder", TENSORS, INFO)
    tensors, info = load_checkpoint(tmp_path / "new" / "folder")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert {key: info[key] for key in INFO} == INFO


def test_the_file_is_plain_safetensors(tmp_path):
    save_checkpoint(tmp_path, TENSORS, INFO)
    assert torch.equal(safetensors.torch.load_file(tmp_path / FILE_NAME)["a"], TENSORS["a"])


def test_any_single_damaged_byte_is_noticed(tmp_path):
    save_checkpoint(tmp_path, TENSORS, INFO)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_noticed(tmp_path, length):
    save_checkpoint(tmp_path, TENSORS, INFO)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(tmp_path)


def test_a_pickle_is_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (tmp_path / FILE_NAME).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, TENSORS, INFO)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(SaveError, match="No space left on device"):
        save_checkpoint(tmp_path, {"a": torch.zeros(1)}, {"step": 8})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)[1]["step"] == 7
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_a_write_cut_short_leaves_the_previous_checkpoint(tmp_path):
    """A killed process leaves a partial temporary file; it must neither be read nor be in the way."""
    save_checkpoint(tmp_path, TENSORS, INFO)
    whole = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / ".state.partial.safetensors").write_bytes(whole[: len(whole) // 2])
    assert load_checkpoint(tmp_path)[1]["step"] == 7
    save_checkpoint(tmp_path, TENSORS, {"step": 8})
    assert load_checkpoint(tmp_path)[1]["step"] == 8
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_fingerprint_names_what_differs(tmp_path):
    scene, gaussians = tiny_scene(), blobs()
    saved = fingerprint(scene, gaussians)
    check_same_run(saved, fingerprint(scene, gaussians.clone()), tmp_path)
    others = {
        "scene is tiny there and other here": fingerprint(tiny_scene(name="other"), gaussians),
        "number of photos is 10 there and 9 here": fingerprint(tiny_scene(9), gaussians),
        "photo size is 32x24 there and 32x18 and 32x24 here": fingerprint(tiny_scene(two_sizes=True), gaussians),
        "number of Gaussians is 40 there and 30 here": fingerprint(scene, gaussians[:30]),
        "the photos or cameras are not the same": fingerprint(tiny_scene(seed=1), gaussians),
        "the initial Gaussians are not the same": fingerprint(scene, blobs(seed=1)),
    }
    for message, current in others.items():
        with pytest.raises(CheckpointError, match=message):
            check_same_run(saved, current, tmp_path)
