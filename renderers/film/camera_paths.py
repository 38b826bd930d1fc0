"""Camera-and-time paths through a scene, made from the input cameras alone.

Kinds of path
    ``input``        the inputs' own trajectory, smoothly resampled, in step with the clip
    ``interpolate``  a smooth curve through a few key inputs, equal steps from key to key
    ``orbit``        a small circle around the scene's focus point, all cameras looking at it; where
    the inputs surround
                     the focus, a full turn at their mean distance and height
    ``still=N``      the camera of input N, counted from 0 in order of time, while time runs
    ``spiral``       two turns of a forward-facing spiral as wide as the inputs' own motion (the
    LLFF path)
Kinds of time
    ``sweep``        from the first to the last input time, linearly over the path
    ``freeze=T``     T seconds throughout
    ``follow``       the moment at which the inputs' trajectory passes: time of the pose for
    ``input`` and
                     ``interpolate``; ``orbit`` and ``spiral`` are carried along the trajectory
                     while the clip plays
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.film.splines import linear, pose_spline
from fsm.views import Views

PATH_KINDS = ("input", "orbit", "spiral", "interpolate")
MAX_FRAMES = 100_000
INTERPOLATE_KEYS = 6
SPIRAL_TURNS = 2
# a change by rounding to whole pixels is no change of aspect
ASPECT_TOLERANCE = 0.01


def make_path(
    kind: str, time: str, inputs: Views, frames: int | None, hw: tuple[int, int], fps: float = 30.0
) -> Views:
    """Request of ``frames`` views at size ``hw`` along a path of ``kind`` with its ``time`` (see
    the module's text).

    ``inputs`` are all input cameras of the scene, unbatched [v]. ``frames=None`` takes as many as
    the clip lasts at ``fps`` (three seconds' worth where time is frozen). Field of view: see
    ``fit_intrinsics``. Bad values raise ``InputError``.
    """
    still = kind.startswith("still=")
    if kind not in PATH_KINDS and not still:
        raise InputError(
            f"path is {kind!r}; choose one of {', '.join(PATH_KINDS)}, still=N or a "
            "camera_path.json file."
        )
    track = Track.through(inputs)
    frozen = parse_time(time, track.times)
    if frames is None:
        frames = frame_count(track.duration if frozen is None else 0.0, fps)
    check_size(hw)
    if not 1 <= frames <= MAX_FRAMES:
        raise InputError(f"a path has 1 to {MAX_FRAMES} frames, found {frames}.")
    along = torch.linspace(0, 1, frames, dtype=torch.float64)
    seconds = torch.full_like(along, frozen) if frozen is not None else track.seconds(along)
    if still:
        c2w, intrinsics = track.at(torch.full_like(along, _knot(track, kind)))
    elif kind == "input":
        c2w, intrinsics = track.at(along)
    elif kind == "interpolate":
        c2w, fractions = _through_keys(track, along)
        intrinsics = track.at(fractions)[1]
        seconds = track.seconds(fractions) if time == "follow" else seconds
    else:
        place = along if time == "follow" else torch.full_like(along, track.fraction(frozen))
        base, intrinsics = track.at(place)
        # A path around a fixed base closes: played in a loop it does not show one camera twice.
        turn = along if time == "follow" else torch.arange(frames, dtype=torch.float64) / frames
        c2w = orbit(turn, base, inputs) if kind == "orbit" else spiral(turn, base, inputs)
    views = Views(c2w.float(), intrinsics.float(), seconds.float(), inputs.hw)
    return fit_intrinsics(views, hw)


@dataclass(frozen=True)
class Track:
    """The inputs' trajectory: poses by spline, intrinsics linearly, over fractions [0, 1] of the
    clip.

    Of inputs that share one moment (several cameras) the first is taken; if all do, the track runs
    through them in their order while the clock stands.
    """

    knots: Float[Tensor, "k"]
    times: Float[Tensor, "k"]
    c2w: Float[Tensor, "k 4 4"]
    intrinsics: Float[Tensor, "k 4"]

    @staticmethod
    def through(inputs: Views) -> "Track":
        """Track through unbatched input views."""
        if inputs.c2w.ndim != 3 or len(inputs) == 0:
            raise InputError(
                f"a camera path needs unbatched input views, found poses {tuple(inputs.c2w.shape)}."
            )
        inputs = inputs.without_rgb().to("cpu")
        order = torch.argsort(inputs.time, stable=True)
        times = inputs.time[order].double()
        first = torch.cat([torch.ones(1, dtype=torch.bool), times.diff() > 0])
        if int(first.sum()) > 1:
            order, times = order[first], times[first]
            knots = (times - times[0]) / (times[-1] - times[0])
        else:
            knots = torch.linspace(0, 1, len(order), dtype=torch.float64)
        return Track(knots, times, inputs.c2w[order].double(), inputs.intrinsics[order].double())

    @property
    def duration(self) -> float:
        """Seconds from the first to the last input."""
        return float(self.times[-1] - self.times[0])

    def seconds(self, fractions: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Seconds at fractions of the clip."""
        return self.times[0] + fractions * self.duration

    def fraction(self, seconds: float | None) -> float:
        """Fraction of the clip at ``seconds``; its middle where no moment is given or the clock
        stands.
        """
        return (
            0.5
            if seconds is None or self.duration == 0
            else (seconds - float(self.times[0])) / self.duration
        )

    def at(
        self, fractions: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
        """Camera-to-world and intrinsics at fractions of the clip."""
        return pose_spline(self.knots, self.c2w, fractions), linear(
            self.knots, self.intrinsics, fractions
        )


def parse_time(time: str, times: Float[Tensor, "k"]) -> float | None:
    """Seconds T of ``freeze=T``; None for ``sweep`` and ``follow``. T lies within the inputs'
    ``times``.
    """
    if time in ("sweep", "follow"):
        return None
    name, _, number = time.partition("=")
    try:
        seconds = float(number)
    except ValueError:
        seconds = math.nan
    if name != "freeze" or not math.isfinite(seconds):
        raise InputError(
            f"time is {time!r}; choose sweep, follow or freeze=SECONDS (as in freeze=1.5)."
        )
    first, last = float(times.min()), float(times.max())
    if not first - 1e-3 <= seconds <= last + 1e-3:
        raise InputError(
            f"time is {time!r}, outside the inputs; choose a moment from {first:.3f} to "
            f"{last:.3f} seconds."
        )
    return min(max(seconds, first), last)


def frame_count(duration: float, fps: float) -> int:
    """Frames that play ``duration`` seconds at ``fps``, both ends included; three seconds' worth
    for none.
    """
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise InputError(f"fps is {fps}; choose a positive rate of at most 1000 frames per second.")
    return max(2, round(duration * fps) + 1) if duration > 0 else max(2, round(3 * fps))


def check_size(hw: tuple[int, int]) -> None:
    """Raise ``InputError`` unless height and width are 1 to 16384 pixels."""
    if not all(1 <= n <= 16384 for n in hw):
        raise InputError(
            f"size is {hw[1]}x{hw[0]} (width x height); choose 1 to 16384 pixels for each."
        )


def fit_intrinsics(views: Views, hw: tuple[int, int]) -> Views:
    """The same request at size ``hw``, keeping the vertical field of view.

    Of the same aspect (within 1 %) the image is simply scaled. Where the aspect changes, fx keeps
    its ratio to fy, so that pixels keep their shape while the sides gain or lose picture, and the
    principal point is moved to the centre.
    """
    scaled = views.without_rgb().resized(hw)
    aspects = (views.hw[1] / views.hw[0], hw[1] / hw[0])
    if abs(aspects[1] / aspects[0] - 1) <= ASPECT_TOLERANCE:
        return scaled
    f = views.intrinsics[..., :2] * (hw[0] / views.hw[0])
    centre = f.new_tensor([hw[1] / 2, hw[0] / 2]).expand_as(f)
    return Views(views.c2w, torch.cat([f, centre], dim=-1), views.time, hw)


def focus_point(c2w: Float[Tensor, "v 4 4"]) -> Float[Tensor, "3"] | None:
    """Point nearest to all optical axes in the least-squares sense; None where the axes do not
    determine one.

    That is where they are parallel to within about 2 degrees, or where they meet no further away
    than the cameras are apart from each other (a camera that pans meets itself).
    """
    centre, forward = c2w[:, :3, 3].double(), c2w[:, :3, 2].double()
    across = (
        torch.eye(3, dtype=torch.float64, device=c2w.device)
        - forward[:, :, None] * forward[:, None, :]
    )
    A = across.mean(0)
    if float(torch.linalg.eigvalsh(A)[0]) < 1e-3:
        return None
    focus = torch.linalg.solve(A, (across @ centre[..., None]).mean(0))[:, 0]
    depth = ((focus - centre) * forward).sum(-1).median()
    return focus if float(depth) > max(0.75 * _spread(centre), 1e-9) else None


def _knot(track: Track, kind: str) -> float:
    """Fraction of the trajectory at the input that ``still=N`` names."""
    name, last = kind.removeprefix("still="), len(track.knots) - 1
    if not (name.isascii() and name.isdecimal() and int(name) <= last):
        raise InputError(f"path is {kind!r}; write still=N with N from 0 to {last}.")
    return float(track.knots[int(name)])


def orbit(
    u: Float[Tensor, "n"], base: Float[Tensor, "n 4 4"], inputs: Views
) -> Float[Tensor, "n 4 4"]:
    """Cameras that circle once while ``u`` goes from 0 to 1, looking at the focus point.

    Around inputs that surround it: a level turn at their mean distance and height, from the side of
    the first. Otherwise a circle in the image plane of ``base``, as wide as the inputs' spread but
    within 3 to 15 % of the way to the focus, so that it stays near what was seen.
    """
    ring = _ring(u, inputs)
    if ring is not None:
        return ring
    centre, depth, down = _view_of(base, inputs)
    radius = depth * (_spread(inputs.c2w[:, :3, 3].double().cpu()) / depth).clamp(0.03, 0.15)
    angle = 2 * math.pi * u[:, None]
    target = centre + depth * base[:, :3, 2]
    offset = radius * (angle.cos() * base[:, :3, 0] + angle.sin() * base[:, :3, 1])
    return look_at(centre + offset, target, down)


def spiral(
    u: Float[Tensor, "n"], base: Float[Tensor, "n 4 4"], inputs: Views
) -> Float[Tensor, "n 4 4"]:
    """Two turns of the forward-facing spiral of LLFF around ``base``: sideways, up and, half as
    often, forward.

    Each axis is as wide as 90 % of the inputs' offsets along it, but within 2 to 15 % of the
    distance to the focus.
    """
    centre, depth, down = _view_of(base, inputs)
    offsets = (inputs.c2w[:, :3, 3].double().cpu() - centre.mean(0)) @ base[0, :3, :3]
    width = offsets.abs().quantile(0.9, dim=0)
    # [n 3]
    radii = torch.minimum(torch.maximum(width, 0.02 * depth), 0.15 * depth)
    angle = 2 * math.pi * SPIRAL_TURNS * u
    wave = torch.stack([angle.cos(), -angle.sin(), -(angle / 2).sin()], dim=-1)
    position = centre + (base[:, :3, :3] @ (radii * wave)[..., None])[..., 0]
    return look_at(position, centre + depth * base[:, :3, 2], down)


def look_at(
    position: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], down: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 4 4"]:
    """OpenCV camera-to-world at ``position`` looking at ``target``, image y as near to ``down`` as
    possible.
    """
    forward = F.normalize(target - position, dim=-1)
    right = F.normalize(torch.linalg.cross(down, forward), dim=-1)
    pose = torch.eye(4, dtype=position.dtype).repeat(len(position), 1, 1)
    pose[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    pose[:, :3, 3] = position
    return pose


def _view_of(base: Tensor, inputs: Views) -> tuple[Tensor, Tensor, Tensor]:
    """Position [n 3], distance to the focus along the axis [n 1] and image-down direction [n 3] of
    base poses.
    """
    c2w = inputs.c2w.double().cpu()
    spread = _spread(c2w[:, :3, 3])
    if spread <= 1e-6 * float(c2w[:, :3, 3].abs().max()) + 1e-9:
        # cameras that stand still
        spread = 0.25
    focus = focus_point(c2w)
    # parallel axes say nothing about depth
    if focus is None:
        depth = torch.full((len(base), 1), 4 * spread, dtype=torch.float64)
    else:
        depth = ((focus - base[:, :3, 3]) * base[:, :3, 2]).sum(-1, keepdim=True).clamp_min(spread)
    return base[:, :3, 3], depth, base[:, :3, 1]


def _ring(u: Tensor, inputs: Views) -> Tensor | None:
    """A level turn around the focus of inputs that surround it; None where they do not."""
    c2w = inputs.c2w.double().cpu()
    focus = focus_point(c2w)
    down = c2w[:, :3, 1].mean(0)
    if focus is None or float(down.norm()) < 0.2:
        return None
    down = F.normalize(down, dim=0)
    offset = c2w[:, :3, 3] - focus
    height = offset @ down
    level = offset - height[:, None] * down
    if float(F.normalize(level, dim=-1).mean(0).norm()) > 0.5:
        return None
    start = F.normalize(level[inputs.time.argmin().cpu()], dim=0)
    radius = level.norm(dim=-1).mean()
    angle = 2 * math.pi * u[:, None]
    turn = angle.cos() * start + angle.sin() * torch.linalg.cross(down, start)
    position = focus + height.mean() * down + radius * turn
    return look_at(position, focus.expand_as(position), down.expand_as(position))


def _through_keys(track: Track, u: Tensor) -> tuple[Tensor, Tensor]:
    """Poses at ``u`` on the curve through evenly picked inputs, and the fractions of the clip they
    stand for.
    """
    count = min(INTERPOLATE_KEYS, len(track.knots))
    rows = torch.linspace(0, len(track.knots) - 1, count, dtype=torch.float64).round().long()
    steps = torch.linspace(0, 1, count, dtype=torch.float64)
    return pose_spline(steps, track.c2w[rows], u), linear(steps, track.knots[rows][:, None], u)[
        :, 0
    ]


def _spread(points: Tensor) -> float:
    """Root-mean-square distance of points from their centre."""
    return float((points - points.mean(0)).square().sum(-1).mean().sqrt())
