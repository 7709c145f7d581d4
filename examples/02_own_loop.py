"""Your own loop instead of `fit`: render, loss, gradients, `rule.step`. What `fit` does besides: choosing views, scores, checkpoints.

python examples/02_own_loop.py [--steps 30]
"""

import argparse

import torch

import learn2splat as l2s
from learn2splat.gaussians import init_from_points
from learn2splat.optimizers import Task
from learn2splat.scenes import make_procedural_scene


def main(steps: int) -> None:
    scene = make_procedural_scene(seed=1)
    g = init_from_points(scene.points, scene.colors, max_points=1000, generator=torch.Generator().manual_seed(0))
    views = list(scene.train_idx[::3])  # the same few photos in every step
    width, height = scene.size(views[0])
    photos = torch.stack([scene.image(i) for i in views])

    rule = l2s.make_optimizer("nominal")
    task = Task(scene.scene_scale, views_per_step=len(views), steps=steps, num_views=len(views), view_angle=scene.view_angle(views))
    state = rule.init(g, task, torch.Generator().manual_seed(0))
    for step in range(steps):
        g.requires_grad_()
        opacities = g.logit_opacities.sigmoid()
        cameras = scene.viewmats[views], scene.Ks[views], width, height
        renders, _alphas, _meta = l2s.rasterize(g.means, g.quats, g.log_scales.exp(), opacities, g.sh(), *cameras, sh_degree=3)
        loss = l2s.photometric_loss(renders, photos)
        grads = l2s.Gaussians(*torch.autograd.grad(loss, list(g.tensors().values())))
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss.item():.3f}  PSNR of the fitted photos {l2s.psnr(renders.detach(), photos).mean():.2f} dB")
        g, state = rule.step(g.detach(), grads, state)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    main(parser.parse_args().steps)
