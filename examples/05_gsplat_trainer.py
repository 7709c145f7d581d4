"""gsplat's own training loop and its unmodified `DefaultStrategy`, with the learned optimizer in place of six Adams; no GPU needed.

    pip install gsplat
    python examples/05_gsplat_trainer.py [--scene path/to/scene] [--steps 500]

Two lines differ from gsplat's `simple_trainer.py`: where the optimizers are made, and whose `rasterize` is called (gsplat's needs CUDA).
"""

import argparse

import torch
from gsplat import DefaultStrategy

import learn2splat as l2s
from learn2splat.gaussians import init_from_points
from learn2splat.scenes import make_procedural_scene


def main(path: str | None, steps: int, size: int) -> None:
    scene = l2s.load_scene(path, long_side=size) if path else make_procedural_scene(seed=1)
    g = init_from_points(scene.points, scene.colors, max_points=500, generator=torch.Generator().manual_seed(0))
    named = {"means": g.means, "scales": g.log_scales, "quats": g.quats, "opacities": g.logit_opacities, "sh0": g.sh0, "shN": g.shN}
    splats = torch.nn.ParameterDict({name: torch.nn.Parameter(tensor) for name, tensor in named.items()})

    optimizers = l2s.gsplat_optimizers(splats, scene_scale=scene.scene_scale, num_views=len(scene.train_idx))
    strategy = DefaultStrategy(refine_start_iter=100, refine_every=50, reset_every=10_000, refine_stop_iter=steps // 2)
    strategy.check_sanity(splats, optimizers)
    state = strategy.initialize_state(scene_scale=scene.scene_scale)

    def render(view: int) -> tuple[torch.Tensor, dict]:
        colors = torch.cat([splats["sh0"], splats["shN"]], 1)
        camera = scene.viewmats[[view]], scene.Ks[[view]], *scene.size(view)
        splat = splats["means"], splats["quats"], splats["scales"].exp(), splats["opacities"].sigmoid(), colors
        image, _alpha, info = l2s.rasterize(*splat, *camera, sh_degree=3, backgrounds=scene.background[None])
        return image, info

    for step in range(steps):
        view = scene.train_idx[int(torch.randint(len(scene.train_idx), ()))]
        image, info = render(view)
        loss = l2s.photometric_loss(image, scene.image(view)[None])
        strategy.step_pre_backward(splats, optimizers, state, step, info)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        strategy.step_post_backward(splats, optimizers, state, step, info)
        if step % 100 == 0 or step == steps - 1:
            with torch.no_grad():
                quality = torch.stack([l2s.psnr(render(i)[0], scene.image(i)[None])[0] for i in scene.test_idx]).mean()
            print(f"step {step:4d}  {len(splats['means'])} Gaussians  loss {loss.item():.3f}  held-out {quality:.2f} dB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", help="COLMAP folder or one with a transforms.json; default: a procedural scene")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--size", type=int, default=128, help="longer side of the photos in px")
    arguments = parser.parse_args()
    main(arguments.scene, arguments.steps, arguments.size)
