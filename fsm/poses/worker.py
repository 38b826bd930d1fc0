"""COLMAP in a process of its own: ``python -m fsm.poses.worker REQUEST ANSWER``.

Its long calls cannot be interrupted, and its libraries need not agree with those of PyAV and
OpenCV. Requests and answers are JSON files; this file imports neither torch nor OpenCV. Poses are
OpenCV world-to-camera ones, the centre of the first pixel is at (0.5, 0.5).
"""

import json
import sys
from pathlib import Path
from typing import Any

FEATURES = 2048
LARGE = 480  # pixels of the longer side, from which on pictures are not enlarged for features
OVERLAP = 8  # frames of a film that each one is compared with, and some farther ones
PAIRED = 10  # in a film, every so many frames are compared with all others so chosen
TRACKS = 200  # followed points that every picture should have; more cost time
SMALLEST_ANGLE = 0.5  # degrees between the rays of a point
LEAST_MODEL = 3


def solve(request: dict[str, Any]) -> dict[str, Any]:
    """Features, matches, and the models that were found, the largest first."""
    import pycolmap

    folder, images = Path(request["work"]), Path(request["images"])
    database = folder / "database.db"
    database.unlink(missing_ok=True)
    threads = request["threads"]
    _extract(pycolmap, request, database, images, threads)
    _match(pycolmap, request, database, threads)
    matches = _matches(pycolmap, database)
    models = []
    for method in ("global", "incremental"):
        target = folder / method
        target.mkdir(exist_ok=True)
        found = _map(pycolmap, method, database, images, target, threads)
        models += [_described(pycolmap, m, method, target / str(k)) for k, m in found.items()]
        best = max((len(m["registered"]) for m in models), default=0)
        if best >= 0.95 * len(request["names"]):
            break
    models.sort(key=lambda m: (-len(m["registered"]), m["error"]))
    return {"matches": matches, "models": models}


def finish(request: dict[str, Any]) -> dict[str, Any]:
    """Move a model by a similarity, undistort its pictures, and list its cameras."""
    import pycolmap

    model = pycolmap.Reconstruction(request["model"])
    model.transform(pycolmap.Sim3d(request["similarity"]))
    moved, output = Path(request["work"]) / "moved", Path(request["output"])
    moved.mkdir(exist_ok=True)
    model.write(moved)
    pycolmap.undistort_images(output, moved, request["images"])
    straight = pycolmap.Reconstruction(output / "sparse")
    return {"frames": _frames(straight)}


def _extract(pycolmap, request, database: Path, images: Path, threads: int) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads, options.max_image_size = threads, 1600
    options.sift.max_num_features = FEATURES
    options.sift.first_octave = 0 if request["side"] >= LARGE else -1
    for camera in request["cameras"]:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "SIMPLE_RADIAL"
        if camera["params"]:
            reader.camera_params = ",".join(f"{p:.6f}" for p in camera["params"])
        if request["masks"]:
            reader.mask_path = request["masks"]
        pycolmap.extract_features(
            database, images, camera["names"], pycolmap.CameraMode.SINGLE, reader, options,
            pycolmap.Device.cpu,
        )  # fmt: skip


def _match(pycolmap, request, database: Path, threads: int) -> None:
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads = threads
    if not request["film"]:
        pycolmap.match_exhaustive(database, options, device=pycolmap.Device.cpu)
        return
    near = pycolmap.SequentialPairingOptions()
    near.overlap = OVERLAP
    pycolmap.match_sequential(database, options, near, device=pycolmap.Device.cpu)
    some = sorted(request["names"])[::PAIRED]
    pairs = [f"{a} {b}" for i, a in enumerate(some) for b in some[i + 1 :]]
    if pairs:
        listed = pycolmap.ImportedPairingOptions()
        listed.match_list_path = str(database.with_name("pairs.txt"))
        Path(listed.match_list_path).write_text("\n".join(pairs), encoding="utf-8")
        pycolmap.match_image_pairs(database, options, listed, device=pycolmap.Device.cpu)


def _matches(pycolmap, database: Path) -> dict[str, float]:
    """How well pictures match: median inliers of matching pairs, and the share of pairs between
    which the camera only turned.
    """
    with pycolmap.Database.open(database) as opened:
        geometries = opened.read_two_view_geometries()[1]
    kinds = pycolmap.TwoViewGeometryConfiguration
    good = [g for g in geometries if len(g.inlier_matches) >= 15]
    inliers = sorted(len(g.inlier_matches) for g in good)
    turned = sum(g.config in (kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC) for g in good)
    return {
        "pairs": float(len(good)),
        "inliers": float(inliers[len(inliers) // 2]) if inliers else 0.0,
        "turned": turned / max(1, len(good)),
    }


def _map(pycolmap, method: str, database: Path, images: Path, target: Path, threads: int):
    if method == "global":
        options = pycolmap.GlobalPipelineOptions()
        options.num_threads, options.random_seed = threads, 0
        options.min_model_size = LEAST_MODEL
        options.mapper.min_tri_angle_deg = SMALLEST_ANGLE
        options.mapper.track_required_tracks_per_view = TRACKS
        return pycolmap.global_mapping(database, images, target, options)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = threads, 0
    options.min_model_size = LEAST_MODEL
    options.mapper.init_min_tri_angle = 4.0
    options.mapper.filter_min_tri_angle = SMALLEST_ANGLE
    options.triangulation.min_angle = SMALLEST_ANGLE
    return pycolmap.incremental_mapping(database, images, target, options)


def _described(pycolmap, model, method: str, path: Path) -> dict[str, Any]:
    path.mkdir(exist_ok=True)
    model.write(path)
    cameras = [
        {"focal": float(c.focal_length), "spread": spread, "params": [float(p) for p in c.params]}
        for c, spread in zip(model.cameras.values(), _spreads(pycolmap, model), strict=True)
    ]
    return {
        "method": method,
        "path": str(path),
        "registered": sorted(model.images[i].name for i in model.reg_image_ids()),
        "points": model.num_points3D(),
        "error": float(model.compute_mean_reprojection_error()),
        "cameras": cameras,
        "frames": _frames(model),
    }


def _spreads(pycolmap, model) -> list[float | None]:
    """Standard deviation of every camera's focal length by the covariance of bundle adjustment,
    for errors of one pixel; None where it cannot be had.
    """
    config = pycolmap.BundleAdjustmentConfig()
    for i in model.reg_image_ids():
        config.add_image(i)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions()
    adjuster = pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
    wanted = pycolmap.BACovarianceOptions()
    found = pycolmap.estimate_ba_covariance(wanted, model, adjuster)
    spreads: list[float | None] = []
    for camera in model.cameras.values():
        covariance = None if found is None else found.get_other_params_cov(camera.params)
        spreads.append(None if covariance is None else float(max(covariance[0, 0], 0.0)) ** 0.5)
    return spreads


def _frames(model) -> list[dict[str, Any]]:
    frames = []
    for i in model.reg_image_ids():
        image = model.images[i]
        camera = model.cameras[image.camera_id]
        matrix = image.cam_from_world().matrix().tolist()
        frames.append(
            {
                "name": image.name,
                "w2c": [*matrix, [0.0, 0.0, 0.0, 1.0]],
                "hw": [int(camera.height), int(camera.width)],
                "params": [float(p) for p in camera.params],
            }
        )
    return sorted(frames, key=lambda f: f["name"])


def main() -> None:
    """Answer a request."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import pycolmap

    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)
    answer = solve(request) if request["task"] == "solve" else finish(request)
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
