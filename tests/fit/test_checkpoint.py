"""Checkpoints: exact, never half, damage is noticed, nothing is unpickled."""

import errno
import os
import pickle
import warnings

import pytest
import safetensors.torch
import torch
from tiny_scenes import blobs, tiny_scene

from learn2splat import files
from learn2splat.errors import CheckpointError, SaveError
from learn2splat.fitting import checkpoint
from learn2splat.fitting.checkpoint import FILE_NAME, check_same_run, fingerprint, load_checkpoint, rule_fingerprint, save_checkpoint
from learn2splat.optimizers._external import import_factory

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
    partial = tmp_path / ".state.safetensors.abcd_123.partial"
    partial.mkdir()
    (partial / FILE_NAME).write_bytes(whole[: len(whole) // 2])
    assert load_checkpoint(tmp_path)[1]["step"] == 7
    save_checkpoint(tmp_path, TENSORS, {"step": 8})
    assert load_checkpoint(tmp_path)[1]["step"] == 8
    with files.locked(tmp_path):  # as every run does
        assert sorted(os.listdir(tmp_path)) == [files.LOCK, FILE_NAME]


def test_tensors_that_share_memory_and_views_are_saved_whole(tmp_path):
    whole = torch.randn(6, 4)
    tensors = {"whole": whole, "again": whole, "rows": whole[1:3], "columns": whole[:, :2]}
    save_checkpoint(tmp_path, tensors, {})
    loaded, _ = load_checkpoint(tmp_path)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_other_versions_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "versions", lambda: {"learn2splat": "0.0", "torch": "2.0"})
    save_checkpoint(tmp_path, TENSORS, INFO)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="torch 2.0 there and"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, TENSORS, INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(tmp_path)


RULE = """
from learn2splat.optimizers import OptState, UpdateRule
RATE = 1.0
class Mine(UpdateRule):
    name = "mine"
    def __init__(self, rate=0.1, tensor=None, function=len): self.rate, self.tensor, self.function = rate, tensor, function
    def init(self, gaussians, task, generator): return OptState({}, task=task)
    def step(self, gaussians, grads, state): return gaussians, state
"""


def test_an_own_rule_is_known_by_its_values_and_its_whole_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(RULE)
    mine = import_factory(f"{file}:Mine")
    same = rule_fingerprint(mine(0.1, torch.ones(3), lambda x: x))
    assert rule_fingerprint(mine(0.1, torch.ones(3), lambda x: x)) == same  # no address in it
    for other in (mine(0.2, torch.ones(3), lambda x: x), mine(0.1, torch.zeros(3), lambda x: x)):
        assert rule_fingerprint(other) != same
    file.write_text(RULE.replace("RATE = 1.0", "RATE = 2.0"))  # not in the class, but beside it
    changed = rule_fingerprint(import_factory(f"{file}:Mine")(0.1, torch.ones(3), lambda x: x))
    assert {key for key in same if same[key] != changed[key]} == {"code of the optimizer"}


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
