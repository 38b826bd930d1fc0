"""Worlds as values, and what they say about a moment: where every body, its surface and the camera
are.

World axes: y points down, the ground or floor is y = 0, the middle of things x = z = 0. Metres and
seconds.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BALL, BOX, CYLINDER, PILLOW = range(4)  # unit shapes; a pillow is x⁴ + y⁴ + z⁴ = 1
BODIES = 16
# rows of surfaces after those of the bodies
FLOOR, CEILING, WALL_X, WALL_Z = range(BODIES, BODIES + 4)
SURFACES = BODIES + 4
LONGEST_CHAIN = 2
LOOK = 26  # numbers per surface, see ``Surfaces.packed``

P = TypeVar("P")


@dataclass(frozen=True)
class Bodies:
    """Unit shapes, scaled, swinging about an anchor, turning, rocking, breathing, swaying; some
    hang on others.
    """

    shape: Int[Tensor, "b k"]
    size: Float[Tensor, "b k 3"]
    """Half extents in metres."""
    parent: Int[Tensor, "b k"]
    """The body in whose frame this one moves, -1 for the world; at most ``LONGEST_CHAIN`` bodies
    hang in a row.
    """
    anchor: Float[Tensor, "b k 3"]
    pivot: Float[Tensor, "b k 3"]
    """The point of the body, in metres from its middle, that stays at the anchor while it turns."""
    swing: Float[Tensor, "b k 2 3"]
    """Amplitudes in metres of two sinusoids that move the anchor."""
    axis: Float[Tensor, "b k 3"]
    """Unit axis of rotation."""
    angle: Float[Tensor, "b k"]
    """Rotation at time 0, radians."""
    spin: Float[Tensor, "b k"]
    """Radians per second."""
    waves: Float[Tensor, "b k 5"]
    """Angular frequencies (radians per second) of the two swings, of rocking, of breathing and of
    swaying.
    """
    phases: Float[Tensor, "b k 5"]
    rock: Float[Tensor, "b k"]
    """Radians to both sides."""
    breath: Float[Tensor, "b k"]
    """How much taller and thinner, then shorter and thicker; the volume stays."""
    sway: Float[Tensor, "b k"]
    """How far the top leans over: a shear."""
    born: Float[Tensor, "b k"]
    """Seconds; before, the body is not there."""
    gone: Float[Tensor, "b k"]
    """Seconds; from then on it is not there."""

    def pose(
        self, time: Float[Tensor, "b v"]
    ) -> tuple[Float[Tensor, "b v k 3 3"], Float[Tensor, "b v k 3"]]:
        """Map from the unit shape to the world, and the middle, of every body at every moment."""
        t = time[:, :, None]
        wave = torch.sin(self.waves[:, None] * t[..., None] + self.phases[:, None])  # [b v k 5]
        angle = self.angle[:, None] + self.spin[:, None] * t + self.rock[:, None] * wave[..., 2]
        turn = axis_rotation(self.axis[:, None].expand(*angle.shape, 3), angle)
        taller = 1.0 + self.breath[:, None] * wave[..., 3]
        stretch = torch.stack([taller.rsqrt(), taller, taller.rsqrt()], -1) * self.size[:, None]
        local = torch.diag_embed(stretch)
        local[..., 0, 1] = -self.sway[:, None] * wave[..., 4] * stretch[..., 1]
        rise = torch.zeros_like(stretch)
        # what stands on the floor stays on it
        rise[..., 1] = self.size[:, None, :, 1] * (1.0 - taller)
        place = self.anchor[:, None] + (wave[..., :2, None] * self.swing[:, None]).sum(-2)
        middle = place + (turn @ (rise - self.pivot[:, None])[..., None])[..., 0]
        above = self.parent.clamp_min(0).long()[:, None, :].expand(angle.shape)
        hangs = (self.parent >= 0)[:, None, :, None]
        world_turn, world_middle = turn, middle
        for _ in range(LONGEST_CHAIN):
            frame = world_turn.gather(2, above[..., None, None].expand(turn.shape))
            start = world_middle.gather(2, above[..., None].expand(middle.shape))
            world_turn = torch.where(hangs[..., None], frame @ turn, turn)
            world_middle = torch.where(hangs, start + (frame @ middle[..., None])[..., 0], middle)
        return world_turn @ local, world_middle

    def there(self, time: Float[Tensor, "b v"]) -> Bool[Tensor, "b v k"]:
        """Which bodies exist at every moment."""
        return (time[:, :, None] >= self.born[:, None]) & (time[:, :, None] < self.gone[:, None])


@dataclass(frozen=True)
class Surfaces:
    """What bodies and surroundings look like; see ``patterns`` for what the numbers of a pattern
    mean.
    """

    pattern: Int[Tensor, "b s"]
    seed: Int[Tensor, "b s"]
    """Below 2²⁴."""
    scale: Float[Tensor, "b s"]
    """Cells per metre."""
    turn: Float[Tensor, "b s"]
    """Radians by which the pattern is turned."""
    first: Float[Tensor, "b s"]
    second: Float[Tensor, "b s"]
    palette: Float[Tensor, "b s 4 3"]
    """Linear RGB. Outdoors, those of ``WALL_X`` are the sky's: zenith, horizon, hills, clouds."""
    contrast: Float[Tensor, "b s"]
    """Relative brightness of the pattern's own shades."""
    grain: Float[Tensor, "b s"]
    """Relative brightness of fine noise over it."""
    grain_scale: Float[Tensor, "b s"]
    """Cells of that noise per metre."""
    grain_stretch: Float[Tensor, "b s"]
    """How much longer than wide the noise is: 1 stone, 0.1 wood."""
    bump: Float[Tensor, "b s"]
    """How far the same noise tilts the normal."""
    gloss: Float[Tensor, "b s"]

    def packed(self) -> Float[Tensor, "b s 26"]:
        """All of it as one table: a row per surface, in the order of ``trace``'s names for its
        columns.
        """
        row = [
            self.pattern,
            self.seed,
            self.scale * self.turn.cos(),
            self.scale * self.turn.sin(),
            self.scale,
        ]
        row += [
            self.first,
            self.second,
            self.contrast,
            self.grain,
            self.grain_scale,
            self.grain_stretch,
        ]
        row += [self.bump, self.gloss, torch.zeros_like(self.gloss)]
        return torch.cat(
            [torch.stack([column.float() for column in row], -1), self.palette.flatten(2)], -1
        )


@dataclass(frozen=True)
class Surroundings:
    """A room, or open ground under a sky; its lamp, which is the sun if far away; air. Colours are
    linear RGB.
    """

    room: Float[Tensor, "b 3"]
    """Half extents of the room in metres."""
    open: Float[Tensor, "b"]
    """1 for open ground, 0 for a room."""
    lamp: Float[Tensor, "b 3"]
    """Where the light comes from."""
    colour: Float[Tensor, "b 3"]
    above: Float[Tensor, "b 3"]
    below: Float[Tensor, "b 3"]
    falloff: Float[Tensor, "b"]
    """Light is divided by 1 + falloff · distance²."""
    softness: Float[Tensor, "b"]
    """Half width of a shadow's edge per metre between what casts it and what it falls on."""
    fog: Float[Tensor, "b"]
    """Share of light lost per metre."""


@dataclass(frozen=True)
class CameraMotion:
    """A camera that moves along a line, circles what it looks at, walks, or is only held by a
    hand.
    """

    hfov: Float[Tensor, "b"]
    """Radians."""
    eye: Float[Tensor, "b 3"]
    """Where it is in the middle of its path."""
    aim: Float[Tensor, "b 3"]
    """Point looked at then."""
    velocity: Float[Tensor, "b 3"]
    """Metres per second in the middle of the path."""
    follow: Float[Tensor, "b"]
    """Share of that velocity that the point looked at has too."""
    orbit: Float[Tensor, "b"]
    """Radians per second around the middle of the world."""
    period: Float[Tensor, "b"]
    """Seconds there and back again: all motion slows down, stops and returns."""
    phase: Float[Tensor, "b"]
    keep_out: Float[Tensor, "b"]
    """Metres around the middle of the world that the camera does not enter."""
    limit: Float[Tensor, "b 3"]
    """Largest distance from the middle of the room, by axis."""
    shake: Float[Tensor, "b 4 6"]
    """Amplitudes of four sinusoids in x, y, z (metres) and in the point looked at (metres)."""
    shake_omega: Float[Tensor, "b 4 6"]
    shake_phase: Float[Tensor, "b 4 6"]

    def pose(self, time: Float[Tensor, "b v"]) -> Float[Tensor, "b v 4 4"]:
        """Camera-to-world at every moment."""
        rate = (2.0 * torch.pi / self.period)[:, None]
        gone = torch.sin(rate * time + self.phase[:, None]) / rate
        shake = self.shake[:, None] * torch.sin(
            self.shake_omega[:, None] * time[..., None, None] + self.shake_phase[:, None]
        )
        place, tilt = shake.sum(-2).split(3, dim=-1)
        travelled = self.velocity[:, None] * gone[..., None]
        x, y, z = (self.eye[:, None] + travelled).unbind(-1)
        s, c = torch.sin(self.orbit[:, None] * gone), torch.cos(self.orbit[:, None] * gone)
        x, z = c * x + s * z, c * z - s * x
        radius = (x * x + z * z).sqrt().clamp_min(1e-3)
        short = self.keep_out[:, None] - radius
        outward = 1.0 + 0.5 * (short + (short * short + 0.05).sqrt()) / radius
        held = torch.stack([x * outward, y, z * outward], -1)
        share = (held / self.limit[:, None]).abs()
        held = held / _power(1.0 + _power(share, 8.0), 0.125)
        eye = held + place
        forward = self.aim[:, None] + self.follow[:, None, None] * travelled + tilt - eye
        return looking(eye, forward)


def looking(eye: Float[Tensor, "*b 3"], forward: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """Camera-to-world at ``eye``, upright, its axis along ``forward`` (of any length)."""
    forward = forward / forward.norm(dim=-1, keepdim=True)
    down = torch.zeros_like(forward)
    down[..., 1] = 1.0
    right = torch.linalg.cross(down, forward)
    right = right / right.norm(dim=-1, keepdim=True)
    columns = torch.stack([right, torch.linalg.cross(forward, right), forward, eye], dim=-1)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=eye.device).expand(*eye.shape[:-1], 1, 4)
    return torch.cat([columns, last], dim=-2)


def _power(base: Float[Tensor, "b *s"], exponent: int | float) -> Float[Tensor, "b *s"]:
    """Powers, world by world.

    torch rounds the elements that fill its vectors and the rest in two ways, so that powers of a
    whole batch would depend on its size.
    """
    return torch.stack([row**exponent for row in base])


def mapped(parameters: P, fn: Callable[[Tensor], Tensor]) -> P:
    """The same dataclass of tensors of any shape (nested ones too), ``fn`` applied to each."""
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
