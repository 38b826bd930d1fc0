"""Do the cameras of a clip fit its pictures? Matched points must obey the epipolar geometry that
the poses claim.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.datasets.conventions import fov_from_focal, inverse, opencv_from_opengl
from fsm.views import Views

PAIRS = 10
GAP = 10
# Neighbours in time that turn further than this are no frames of a video: nearest orientations are
# matched instead.
VIDEO_TURN_DEG = 20.0
LONGEST_SIDE = 640
FEATURES = 800
RATIO = 0.8
ENOUGH_MATCHES = 50
# Of pictures 256 pixels long: what counts as a fit, as a fit in a scene that moves as a whole, and
# the parallax below which a camera counts as still (still clips of Stereo4D stay below 0.2 over ten
# frames; one moved by 0.2 m has 0.26).
GOOD_PX = 0.7
ROUGH_PX = 2.0
STILL_PX = 0.25
# A reading wins over the others by this factor.
MARGIN = 1.5


@dataclass(frozen=True)
class ClipReport:
    """What is known of a clip's cameras; lengths in the clip's unit, Sampson distances are medians
    in native pixels.
    """

    frames: int
    static: bool
    """All frames share one moment."""
    cameras: int
    moments: int
    fps: float | None
    duration: float
    """Seconds from the first to the last frame."""
    hw: tuple[int, int]
    hfov_deg: float
    """Horizontal field of view of the first frame."""
    baseline: float
    """Largest distance of a camera centre from the first."""
    extent: float
    """Largest distance between two camera centres."""
    largest_step: float
    """Largest distance between centres of one camera's consecutive frames; of a static capture, of
    frames in the clip's order.
    """
    largest_step_frame: int
    """The frame that step ends at."""
    near_static: bool
    """The camera's motion shows too little in the pictures to judge its poses, or the centres are
    one point.
    """
    pairs: int
    matches: int
    parallax_px: float | None
    """Median motion of matched points that no turn of the camera explains."""
    sampson_px: float | None
    """Poses as stored."""
    sampson_flipped_px: float | None
    """Poses with y and z axes flipped, as if the file held OpenGL axes."""
    sampson_inverted_px: float | None
    """Poses inverted, as if the file held world-to-camera."""
    verdict: str


def inspect_clip(clip: Clip) -> ClipReport:
    """Measure a clip's camera path and check its poses against its pictures on about ten frame
    pairs.

    Each reading of the poses (as stored, y/z flipped, inverted) predicts an epipolar line for every
    matched point; the median Sampson distance says which reading the pictures support. Points on
    moving objects are outvoted by the rest.
    """
    cameras = clip.cameras
    centre = cameras.c2w[:, :3, 3].double()
    step, ends = _steps(clip)
    few = centre[torch.linspace(0, len(centre) - 1, min(len(centre), 1000)).round().long()]
    baseline = float((centre - centre[0]).norm(dim=-1).max())
    pairs, matches, distances, parallax = _evidence(clip)
    scale = max(cameras.hw) / 256
    still = baseline == 0.0 or (parallax is not None and parallax < STILL_PX * scale)
    return ClipReport(
        frames=len(clip),
        static=clip.static,
        cameras=len(set(clip.camera_ids)),
        moments=len(set(cameras.time.tolist())),
        fps=clip.fps,
        duration=float(cameras.time.max() - cameras.time.min()),
        hw=cameras.hw,
        hfov_deg=float(np.degrees(fov_from_focal(float(cameras.intrinsics[0, 0]), cameras.hw[1]))),
        baseline=baseline,
        extent=max(float(torch.cdist(few, few).max()), baseline),
        largest_step=float(step.max()) if len(step) else 0.0,
        largest_step_frame=ends[int(step.argmax())] if len(step) else 0,
        near_static=still,
        pairs=pairs,
        matches=matches,
        parallax_px=parallax,
        sampson_px=distances[0] if distances else None,
        sampson_flipped_px=distances[1] if distances else None,
        sampson_inverted_px=distances[2] if distances else None,
        verdict=_verdict(still, matches, distances, scale),
    )


def _steps(clip: Clip) -> tuple[Float64[Tensor, " s"], list[int]]:
    """Distances between consecutive frames of each camera, and the frames they end at; of a static
    capture between frames in the clip's order.
    """
    order = list(range(len(clip)))
    ids, times = clip.camera_ids, clip.cameras.time.tolist()
    if not clip.static:
        order.sort(key=lambda i: (ids[i], times[i]))
    pairs = [(a, b) for a, b in pairwise(order) if clip.static or ids[a] == ids[b]]
    centre = clip.cameras.c2w[:, :3, 3].double()
    before, after = centre[[a for a, _ in pairs]], centre[[b for _, b in pairs]]
    return (after - before).norm(dim=-1), [b for _, b in pairs]


def _verdict(still: bool, matches: int, distances: list[float] | None, scale: float) -> str:
    if still:
        return "cannot tell: the camera hardly moves"
    if distances is None or matches < ENOUGH_MATCHES:
        return f"cannot tell: only {matches} matches between the pictures"
    advice = (
        f"consistent: matched points lie {distances[0]:.2f} px from where the poses put them",
        "looks like OpenGL axes: flip y and z of every camera-to-world pose",
        "looks like world-to-camera: invert every pose",
    )
    best, second = sorted(distances)[:2]
    if best <= GOOD_PX * scale and second < best * MARGIN:
        return "cannot tell: several readings of the poses fit; the camera moves too simply"
    if best <= GOOD_PX * scale:
        return advice[distances.index(best)]
    if best <= ROUGH_PX * scale and second >= best * MARGIN:
        return (
            advice[distances.index(best)]
            + " (roughly: much of the scene moves, or intrinsics or frame order are off)"
        )
    return (
        f"inconsistent: no reading of the poses fits better than {best:.1f} px; check "
        "intrinsics, frame order and poses"
    )


def _evidence(clip: Clip) -> tuple[int, int, list[float] | None, float | None]:
    """Pairs used, matches found, the three median Sampson distances and the parallax, both in
    native pixels.
    """
    pairs = _pairs(clip.cameras)
    if not pairs:
        return 0, 0, None, None
    wanted = sorted({i for pair in pairs for i in pair})
    h, w = clip.cameras.hw
    shrink = min(1.0, LONGEST_SIDE / max(h, w))
    views = clip.views(wanted, None if shrink == 1.0 else (round(h * shrink), round(w * shrink)))
    assert views.rgb is not None, "clips return rgb"
    pictures = (views.rgb * 255.0).round().byte().permute(0, 2, 3, 1).numpy()
    features = [_features(picture) for picture in pictures]
    intrinsics = views.intrinsics.double().numpy()
    stored = views.c2w.double().numpy()
    readings = (stored, opencv_from_opengl(stored), inverse(stored))
    sampson: list[list[np.ndarray]] = [[], [], []]
    moved: list[list[np.ndarray]] = [[], [], []]
    for pair in pairs:
        i, j = (wanted.index(n) for n in pair)
        a, b = _matched(*features[i], *features[j])
        if len(a) < 8:
            continue
        for r, c2w in enumerate(readings):
            T_b_a = np.linalg.inv(c2w[j]) @ c2w[i]
            sampson[r].append(_sampson(a, b, T_b_a, intrinsics[i], intrinsics[j]))
            moved[r].append(_parallax(a, b, T_b_a[:3, :3], intrinsics[i], intrinsics[j]))
    if not sampson[0]:
        return len(pairs), 0, None, None
    native = 1.0 / shrink
    distances = [float(np.median(np.concatenate(s))) * native for s in sampson]
    parallax = min(float(np.median(np.concatenate(m))) for m in moved) * native
    return len(sampson[0]), sum(len(s) for s in sampson[0]), distances, parallax


def _pairs(cameras: Views) -> list[tuple[int, int]]:
    """Frames to match: some way apart in time, or nearest in orientation where neighbours in time
    look elsewhere.
    """
    n = len(cameras)
    gap = max(1, min(GAP, n // 4))
    if n < 2:
        return []
    starts = sorted(set(np.linspace(0, n - 1 - gap, PAIRS).round().astype(int).tolist()))
    rotation = cameras.c2w[:, :3, :3].double()
    # The angle between two orientations is the same whichever way the poses are to be read.
    trace = torch.einsum("aij,bij->ab", rotation, rotation)
    turn = torch.rad2deg(((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos())
    angle = turn[starts].clone()
    shared = cameras.time[starts, None] == cameras.time[None]
    angle[torch.arange(len(starts)), starts] = torch.inf
    if not cameras.one_moment and int(shared.sum()) > len(starts):
        # A rig: other cameras at the same moment, whether its cameras move or stand.
        angle[~shared] = torch.inf
        nearest = [(i, float(angle[k].min()), int(angle[k].argmin())) for k, i in enumerate(starts)]
        return [(i, j) for i, least, j in nearest if least < torch.inf]
    order = torch.argsort(cameras.time, stable=True).tolist()
    along = [(order[i], order[i + gap]) for i in starts]
    if float(torch.stack([turn[a, b] for a, b in along]).median()) <= VIDEO_TURN_DEG:
        return along
    return [(i, int(angle[k].argmin())) for k, i in enumerate(starts)]


def _features(
    picture: UInt8[np.ndarray, "h w 3"],
) -> tuple[Float64[np.ndarray, "n 2"], np.ndarray | None]:
    import cv2

    points, descriptors = cv2.SIFT.create(nfeatures=FEATURES).detectAndCompute(
        cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), None
    )
    # OpenCV: first pixel centre at 0
    place = np.array([p.pt for p in points], dtype=np.float64).reshape(-1, 2) + 0.5
    return place, descriptors


def _matched(
    a: Float64[np.ndarray, "n 2"],
    of_a: np.ndarray | None,
    b: Float64[np.ndarray, "m 2"],
    of_b: np.ndarray | None,
) -> tuple[Float64[np.ndarray, "k 2"], Float64[np.ndarray, "k 2"]]:
    """Points whose best match is clearly better than the next, both ways round."""
    import cv2

    if of_a is None or of_b is None or len(a) < 2 or len(b) < 2:
        return a[:0], b[:0]
    matcher = cv2.BFMatcher()
    there, back = (
        {
            first.queryIdx: first.trainIdx
            for first, second in found
            if first.distance < RATIO * second.distance
        }
        for found in (matcher.knnMatch(of_a, of_b, k=2), matcher.knnMatch(of_b, of_a, k=2))
    )
    mutual = [(i, j) for i, j in there.items() if back.get(j) == i]
    index = np.array(mutual, dtype=np.int64).reshape(-1, 2)
    return a[index[:, 0]], b[index[:, 1]]


def _camera(intrinsics: Float64[np.ndarray, "4"]) -> Float64[np.ndarray, "3 3"]:
    fx, fy, cx, cy = intrinsics
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _homogeneous(points: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 3"]:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _sampson(
    a: Float64[np.ndarray, "n 2"],
    b: Float64[np.ndarray, "n 2"],
    T_b_a: Float64[np.ndarray, "4 4"],
    of_a: Float64[np.ndarray, "4"],
    of_b: Float64[np.ndarray, "4"],
) -> Float64[np.ndarray, "n"]:
    """First-order distance in pixels of matches from a relative pose's epipolar geometry; 0 where
    centres agree.
    """
    x, y, z = T_b_a[:3, 3] / max(float(np.linalg.norm(T_b_a[:3, 3])), 1e-12)
    essential = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]) @ T_b_a[:3, :3]
    fundamental = np.linalg.inv(_camera(of_b)).T @ essential @ np.linalg.inv(_camera(of_a))
    pa, pb = _homogeneous(a), _homogeneous(b)
    line_b, line_a = pa @ fundamental.T, pb @ fundamental
    error = np.abs((pb * line_b).sum(1))
    return error / np.sqrt((line_b[:, :2] ** 2).sum(1) + (line_a[:, :2] ** 2).sum(1) + 1e-30)


def _parallax(
    a: Float64[np.ndarray, "n 2"],
    b: Float64[np.ndarray, "n 2"],
    R_b_a: Float64[np.ndarray, "3 3"],
    of_a: Float64[np.ndarray, "4"],
    of_b: Float64[np.ndarray, "4"],
) -> Float64[np.ndarray, "n"]:
    """Distance in pixels of matches from where a mere turn of the camera would put them."""
    turned = _homogeneous(a) @ (_camera(of_b) @ R_b_a @ np.linalg.inv(_camera(of_a))).T
    depth = np.where(np.abs(turned[:, 2:]) < 1e-9, 1e-9, turned[:, 2:])
    return np.linalg.norm(turned[:, :2] / depth - b, axis=1)
