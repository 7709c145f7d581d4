"""Peak memory against allocations of known size; LPIPS where its networks are (here: stand-ins) and where they are not."""

import importlib.util
import os

import pytest
import torch
from tiny_scenes import blobs, tiny_scene

from learn2splat.bench import lpips
from learn2splat.bench.memory import PeakMemory

MB = 1_000_000


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells a process its peak memory, in /proc/self/clear_refs")
def test_peak_memory_is_what_was_needed_at_the_worst():
    peaks = []
    for _ in range(3):  # the least of three: it is the memory of the process, in which threads of the test runner live too (seen once: 128 MB)
        with PeakMemory(torch.device("cpu")) as peak:
            sum(float(torch.ones(16 * MB).sum()) for _ in range(3))  # 64 MB, three times in turn
        peaks.append(peak.bytes)
    assert 60 * MB < min(peaks) < 90 * MB
    with PeakMemory(torch.device("cpu")) as peak:
        pass
    assert peak.bytes < 5 * MB


def test_where_the_system_does_not_tell_it_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr("learn2splat.bench.memory._CLEAR", tmp_path / "no" / "clear_refs")
    with PeakMemory(torch.device("cpu")) as peak:
        pass
    assert peak.bytes is None


def test_lpips_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchvision" else object())
    assert lpips.why_missing("vgg") == "torchvision is not installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert lpips.why_missing("alex").endswith("checkpoints/alexnet-owt-7be5be79.pth is missing")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    assert lpips.why_missing("alex") is None and lpips.why_missing("vgg") is not None


def test_lpips_is_a_mean_over_the_held_out_photos(monkeypatch):
    scene = tiny_scene(10)
    monkeypatch.setattr(lpips, "why_missing", lambda net: None if net == "vgg" else "no weights")
    monkeypatch.setattr(lpips, "_measure", lambda net, device: lambda render, photo: float((render - photo).abs().mean()))
    scores = lpips.lpips_scores(scene, blobs())
    assert 0 <= scores["lpips_vgg"] < 0.005  # the blobs are what the photos show, up to 8 bits
    assert scores["lpips_alex"] is None and scores["lpips_missing"] == "no weights"
    dark = blobs().map(lambda field: field)
    dark.sh0 = dark.sh0 - 2.0
    assert lpips.lpips_scores(scene, dark)["lpips_vgg"] > 0.1


def test_lpips_that_cannot_be_made_is_missing_and_no_error(monkeypatch):
    def broken(net, device):
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr(lpips, "why_missing", lambda net: None)
    monkeypatch.setattr(lpips, "_measure", broken)
    scores = lpips.lpips_scores(tiny_scene(4), blobs())
    assert scores == {"lpips_vgg": None, "lpips_alex": None, "lpips_missing": "RuntimeError: operator torchvision::nms does not exist"}
