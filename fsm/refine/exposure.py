"""Exposure of the input frames: a gain of each channel, in linear light.

A linear colour times g is, in sRGB, k (s + 0.055) - 0.055 with k = g^(1/2.4), but for the darkest
tones. Exposure and white balance of a camera are such gains. An offset beside the gain, as in the
affine maps of 3D Gaussian splatting, took up a part of it and helped no unseen view.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.refine.frame_values import cameras_of
from fsm.views import Views

WIDTH = 3  # logarithms of k
BLACK, POWER = 0.055, 2.4  # of the sRGB curve: s + 0.055 is a power of linear light


def sharing_exposure(views: Views) -> Int[Tensor, " v"]:
    """Which of ``views`` [v] have one exposure, by equal numbers: those of one camera of a rig."""
    rig = len(views.time.unique()) < len(views)
    return cameras_of(views) if rig else torch.arange(len(views), device=views.time.device)


def exposed(
    rgb: Float[Tensor, "*b 3 h w"], values: Float[Tensor, " 3"]
) -> Float[Tensor, "*b 3 h w"]:
    """``rgb`` as a frame of that exposure has it. Differentiable."""
    return (rgb + BLACK) * values.exp()[:, None, None] - BLACK


def linear_gains(values: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
    """Gains in linear light."""
    return (POWER * values).exp()


def held_at_white(
    rgb: Float[Tensor, "*b 3 h w"], target: Float[Tensor, "*b 3 h w"]
) -> Float[Tensor, "*b 3 h w"]:
    """``rgb``, at most 1 where ``target`` is: what is brighter than white cannot be told there."""
    return torch.where(target >= 1.0, rgb.clamp_max(1.0), rgb)


@torch.no_grad()
def centre_exposures(values: Float[Tensor, "c 3"], frames: Int[Tensor, " m"]) -> None:
    """Make the mean over ``frames`` (rows, repeated ones count again) the identity, in place."""
    values -= values[frames].mean(0)
