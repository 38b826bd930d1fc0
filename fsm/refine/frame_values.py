"""A few numbers for every input frame, found by refinement: how they are stepped and kept."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.refine.kernels import BETA1, BETA2, EPSILON
from fsm.views import Views


def cameras_of(views: Views) -> Int[Tensor, " v"]:
    """Number of the camera of each of ``views`` [v]: frames of one pose and lens share it."""
    rows = torch.cat([views.c2w.flatten(1), views.intrinsics], 1)
    return rows.unique(dim=0, return_inverse=True)[1]


class FrameValues:
    """p values of each of c cameras, 0 at the start, with Adam (arXiv 1412.6980) for those that a
    step looks at. Frames of one camera share their values.
    """

    FIELDS = ("values", "first", "second", "age")

    def __init__(self, camera: Int[Tensor, " v"], width: int, device: torch.device) -> None:
        count = int(camera.max()) + 1
        self.camera = camera
        """Camera of each frame."""
        self.values = torch.zeros(count, width, device=device).requires_grad_()
        self.first, self.second = (torch.zeros(count, width, device=device) for _ in range(2))
        self.age = torch.zeros(count, device=device)
        """Steps that each camera took part in."""

    def of(self, frame: int) -> Float[Tensor, " p"]:
        """Values of one frame. Differentiable."""
        return self.values[self.camera[frame]]

    @torch.no_grad()
    def step(self, rate: float, but: Int[Tensor, " m"]) -> None:
        """One step of the cameras that have a gradient, ``but`` not of these; one whose gradient is
        not finite sits it out.
        """
        if self.values.grad is None:
            return
        gradient, self.values.grad = self.values.grad, None
        gradient[but] = 0.0
        rows = (gradient.isfinite().all(1) & (gradient != 0).any(1)).nonzero()[:, 0]
        self.age[rows] += 1.0
        self.first[rows] = torch.lerp(gradient[rows], self.first[rows], BETA1)
        self.second[rows] = torch.lerp(gradient[rows].square(), self.second[rows], BETA2)
        one, two = (1.0 - beta ** self.age[rows, None] for beta in (BETA1, BETA2))
        size = (self.second[rows] / two).sqrt() + EPSILON
        self.values[rows] -= rate * (self.first[rows] / one) / size

    def begin_at(self, values: Float[Tensor, "c p"]) -> None:
        """Take ``values``, without any momentum."""
        zeros = torch.zeros_like(values)
        self.load_state({"values": values, "first": zeros, "second": zeros, "age": 0.0 * self.age})

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue."""
        return {name: getattr(self, name).detach() for name in self.FIELDS}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        for name in self.FIELDS:
            setattr(self, name, state[name].clone())
        self.values.requires_grad_()
