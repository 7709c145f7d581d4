"""Peak memory against allocations of known size; LPIPS where its networks are (here: stand-ins) and where they are not."""

import importlib.util
import os
import sys

import pytest
import torch
from tiny_scenes import blobs, tiny_scene

from learn2splat.bench import lpips
from learn2splat.bench.flip import flip
from learn2splat.bench.memory import PeakMemory, TurnsMemory

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


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells a process its peak memory, in /proc/self/clear_refs")
def test_work_in_turns_holds_what_it_took_before():
    """Two that take turns: what one holds counts for itself in its later turns, and not for the other."""
    peaks = []
    for _ in range(3):  # see above
        first, second = TurnsMemory(torch.device("cpu")), TurnsMemory(torch.device("cpu"))
        with first:
            kept = torch.ones(16 * MB)
        with second:
            float(torch.ones(8 * MB).sum())
        with first:
            float(torch.ones(8 * MB).sum())
        peaks.append((first.bytes, second.bytes))
        del kept
    assert 90 * MB < min(peak for peak, _ in peaks) < 120 * MB
    assert 25 * MB < min(peak for _, peak in peaks) < 55 * MB


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


def test_perceptual_scores_are_means_over_the_held_out_photos(monkeypatch):
    scene = tiny_scene(10)
    monkeypatch.setattr(lpips, "why_missing", lambda net: None if net == "vgg" else "no weights")
    monkeypatch.setattr(lpips, "_lpips", lambda net, device: lambda render, photo: float((render - photo).abs().mean()))
    monkeypatch.setattr(lpips, "_st_lpips", lambda device: lambda render, photo: 0.25)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    scores = lpips.perceptual_scores(scene, blobs())
    assert 0 <= scores["lpips_vgg"] < 0.005 and 0 <= scores["flip"] < 0.05  # the blobs are what the photos show, up to 8 bits
    assert scores["lpips_alex"] is None and scores["lpips_missing"] == "no weights"
    assert scores["st_lpips_alex"] == 0.25  # in place of what is not there, under its own name
    dark = blobs().map(lambda field: field)
    dark.sh0 = dark.sh0 - 2.0
    worse = lpips.perceptual_scores(scene, dark)
    assert worse["lpips_vgg"] > 0.1 and worse["flip"] > 0.2


def test_what_cannot_be_made_is_missing_and_no_error(monkeypatch):
    def broken(*_):
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr(lpips, "why_missing", lambda net: None)
    monkeypatch.setattr(lpips, "_lpips", broken)
    monkeypatch.setattr(lpips, "_st_lpips", broken)
    scores = lpips.perceptual_scores(tiny_scene(4), blobs())
    assert [name for name, value in scores.items() if value is not None] == ["flip", "lpips_missing"]
    assert scores["lpips_missing"] == "RuntimeError: operator torchvision::nms does not exist"


def test_flip_is_that_of_its_authors():
    """NVIDIA's own program, built from its C++."""
    theirs = pytest.importorskip("flip_evaluator", reason="flip-evaluator is not installed (extra dev)")
    scene, g = tiny_scene(10), torch.Generator().manual_seed(0)
    photo = torch.nn.functional.interpolate(scene.image(0).permute(2, 0, 1)[None], scale_factor=3, mode="bilinear")[0].permute(1, 2, 0)
    changed = {
        "noise": (photo + 0.2 * torch.randn(photo.shape, generator=g)).clamp(0, 1),
        "shift": photo.roll(2, 1),
        "inverse": 1 - photo,
        "black": torch.zeros_like(photo),
        "same": photo,
    }
    for name, other in changed.items():
        expected = theirs.evaluate(photo.contiguous().numpy(), other.contiguous().numpy(), "LDR", applyMagma=False)[0][..., 0]
        # float32 there; where colours are almost equal, powers below 1 make much of the last digits
        assert float((flip(other, photo) - torch.from_numpy(expected)).abs().max()) < 2e-3, name
        assert float(flip(other, photo).mean()) == pytest.approx(float(expected.mean()), abs=1e-4), name


def test_st_lpips_with_its_own_weights():
    measure = lpips._st_lpips("cpu")
    photo = tiny_scene(4).image(0).repeat(3, 3, 1)
    near, far = ((photo + size * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1) for size in (0.02, 0.3))
    assert measure(photo, photo) == 0 < measure(near, photo) < measure(far, photo) < 1
    assert "torchsummary" not in sys.modules or sys.modules["torchsummary"].__file__
