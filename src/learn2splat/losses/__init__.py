"""Losses and metrics: pure functions of rendered and real photos (V, H, W, 3) in [0, 1]."""

from .photometric import photometric_loss as photometric_loss
from .photometric import psnr as psnr
from .photometric import ssim as ssim
