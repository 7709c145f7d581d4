"""The kernels are compiled once per instruction set and chosen at run time: every copy that this CPU can run gives the same results."""

from __future__ import annotations

import pytest
import torch
from instruction_sets import LOWER, results_of_lower
from random_scenes import random_scene, relative_error, render_with_grads

from learn2splat.losses import photometric_loss
from learn2splat.render import rasterize


def results() -> dict[str, torch.Tensor]:
    """Images, gradients and a loss, in float32 and float64."""
    tensors = {}
    for dtype in (torch.float32, torch.float64):
        scene = random_scene(30, 200, cameras=2, width=37, height=29, sh_degree=3, dtype=dtype)
        renders, alphas, _, grads = render_with_grads(rasterize, scene, render_mode="RGB+D", rasterize_mode="antialiased", absgrad=True)
        photo = renders[..., :3].contiguous().requires_grad_()
        loss = photometric_loss(photo, photo.detach().flip(0).contiguous())
        loss.backward()
        all_of = {"renders": renders, "alphas": alphas, "loss": loss.detach(), "loss_grad": photo.grad, **grads}
        tensors.update({f"{dtype}.{key}": value.contiguous() for key, value in all_of.items()})
    return tensors


@pytest.mark.parametrize("isa", LOWER)
def test_lower_instruction_sets_agree(isa, tmp_path):
    here = results()
    for key, value in results_of_lower(isa, "test_instruction_sets", "results", tmp_path).items():
        # float32: different sums and reciprocal estimates, the difference between float32 and float64 (worst gradient 1e-4, test_rasterize.py)
        assert relative_error(value, here[key]) < (5e-4 if "float32" in key else 1e-11), key
