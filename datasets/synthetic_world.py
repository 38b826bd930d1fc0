"""Parameters of procedural worlds, and what they say about a moment: where solids and cameras are.

World axes: x and z span the floor, y points down; the floor is y = 0, the middle of the room x = z
= 0. Metres and seconds.
"""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Slots of one world: solids of one kind share a slot range, so a batch intersects each kind with
# one formula.
ROUND, BOXES, CYLINDERS = slice(0, 3), slice(3, 6), slice(6, 7)
SOLIDS = 7
ROOM_FACES = 6  # -x +x -y (ceiling) +y (floor) -z +z
SURFACES = SOLIDS + ROOM_FACES
ARENA = 1.95  # metres around the middle of the room that solids never leave and cameras never enter


P = TypeVar("P")


@dataclass(frozen=True)
class Solids:
    """Unit ball, cube [-1, 1]³ and cylinder (axis y), scaled, turning about one axis and swinging
    about an anchor.
    """

    size: Float[Tensor, "b k 3"]
    """Half extents in metres."""
    anchor: Float[Tensor, "b k 3"]
    """Mean position; solids that a world does not use stand a kilometre under the floor."""
    swing: Float[Tensor, "b k 2 3"]
    """Amplitudes in metres of two sinusoids."""
    omega: Float[Tensor, "b k 2"]
    """Their angular frequencies, radians per second."""
    phase: Float[Tensor, "b k 2"]
    axis: Float[Tensor, "b k 3"]
    """Unit axis of rotation."""
    angle: Float[Tensor, "b k"]
    """Rotation at time 0, radians."""
    spin: Float[Tensor, "b k"]
    """Radians per second."""

    def pose(
        self, time: Float[Tensor, "b v"]
    ) -> tuple[Float[Tensor, "b v k 3 3"], Float[Tensor, "b v k 3"]]:
        """Rotation object-to-world and centre of every solid at every moment."""
        t = time[:, :, None]
        wave = torch.sin(self.omega[:, None] * t[..., None] + self.phase[:, None])  # [b v k 2]
        centre = self.anchor[:, None] + (wave[..., None] * self.swing[:, None]).sum(-2)
        angle = self.angle[:, None] + self.spin[:, None] * t
        return axis_rotation(self.axis[:, None].expand(*angle.shape, 3), angle), centre


@dataclass(frozen=True)
class Surfaces:
    """What the solids (first) and the room's faces (after them) look like; patterns index the bank
    of textures.
    """

    pattern: Int[Tensor, "b s"]
    uv: Float[Tensor, "b s 2 2"]
    """Periods per unit of surface coordinates (metres; turns around balls and cylinders)."""
    shift: Float[Tensor, "b s 2"]
    palette: Float[Tensor, "b s 4 3"]
    """Linear RGB."""
    detail: Float[Tensor, "b s"]
    """Relative brightness of the pattern's detail."""
    gloss: Float[Tensor, "b s"]
    texels: Float[Tensor, "b s"]
    """Texels of the finest level per metre, to choose mip levels by."""


@dataclass(frozen=True)
class Light:
    """A lamp under the ceiling, and ambient light from above and from below; linear RGB."""

    position: Float[Tensor, "b 3"]
    colour: Float[Tensor, "b 3"]
    above: Float[Tensor, "b 3"]
    below: Float[Tensor, "b 3"]


@dataclass(frozen=True)
class CameraPath:
    """A camera that swings around the middle of the room, breathes in and out, and is held by a
    hand.
    """

    hfov: Float[Tensor, "b"]
    """Radians."""
    mean: Float[Tensor, "b 3"]
    """Angle around the room (radians), radius and height (metres)."""
    swing: Float[Tensor, "b 3"]
    omega: Float[Tensor, "b 3"]
    phase: Float[Tensor, "b 3"]
    target: Float[Tensor, "b 3"]
    """Point looked at."""
    shake: Float[Tensor, "b 3 6"]
    """Amplitudes of three sinusoids in x, y, z (metres) and in the point looked at (metres)."""
    shake_omega: Float[Tensor, "b 3 6"]
    shake_phase: Float[Tensor, "b 3 6"]

    def pose(self, time: Float[Tensor, "b v"]) -> Float[Tensor, "b v 4 4"]:
        """Camera-to-world at every moment."""
        t = time[..., None]
        angle, radius, height = (
            self.mean[:, None]
            + self.swing[:, None] * torch.sin(self.omega[:, None] * t + self.phase[:, None])
        ).unbind(-1)
        shake = self.shake[:, None] * torch.sin(
            self.shake_omega[:, None] * t[..., None] + self.shake_phase[:, None]
        )
        place, aim = shake.sum(-2).split(3, dim=-1)
        eye = torch.stack([radius * angle.sin(), -height, -radius * angle.cos()], -1) + place
        forward = self.target[:, None] + aim - eye
        forward = forward / forward.norm(dim=-1, keepdim=True)
        down = torch.zeros_like(forward)
        down[..., 1] = 1.0
        right = torch.linalg.cross(down, forward)
        right = right / right.norm(dim=-1, keepdim=True)
        columns = torch.stack([right, torch.linalg.cross(forward, right), forward, eye], dim=-1)
        last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=time.device).expand(*time.shape, 1, 4)
        return torch.cat([columns, last], dim=-2)


def mapped(parameters: P, fn) -> P:
    """The same dataclass of tensors (nested ones too) with ``fn`` applied to each tensor."""
    values = {f.name: getattr(parameters, f.name) for f in dataclasses.fields(parameters)}  # pyright: ignore[reportArgumentType]
    done = {k: fn(v) if isinstance(v, Tensor) else mapped(v, fn) for k, v in values.items()}
    return type(parameters)(**done)


def axis_rotation(
    axis: Float[Tensor, "*b 3"], angle: Float[Tensor, "*b"]
) -> Float[Tensor, "*b 3 3"]:
    """Rotation by ``angle`` radians about the unit vector ``axis`` (Rodrigues)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    s, c = angle.sin()[..., None, None], angle.cos()[..., None, None]
    return (
        torch.eye(3, device=axis.device, dtype=axis.dtype) + s * cross + (1 - c) * (cross @ cross)
    )
