"""What is recorded is the scene: moments, cameras, background, decoded from the file as viser's
client does.
"""

import base64
import dataclasses
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
import zstandard

from fsm.errors import InputError
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.viewer import recording
from fsm.viewer.cameras import Camera, up_direction
from fsm.viewer.recording import FAINTEST, Recording, interval_slots, record
from tests.renderers.splat_files.test_scenes import moving_scene

FPS = 5.0


def decoded(packed: bytes) -> tuple[float, list[tuple[float, dict[str, Any]]]]:
    """Seconds and timed messages of a ``.viser`` file, with their arrays."""
    inner = zstandard.ZstdDecompressor().decompress(
        packed[8:], max_output_size=int.from_bytes(packed[:8], "little")
    )
    end = 8 + int.from_bytes(inner[:8], "little")
    document = msgspec.msgpack.decode(inner[8:end])
    buffers = []
    for size in document["binaryBufferLengths"]:
        end += -end % 8
        buffers.append(inner[end : end + size])
        end += size

    def filled(value: Any) -> Any:
        if isinstance(value, dict) and "__binary_index" in value:
            return np.frombuffer(buffers[value["__binary_index"]], value["dtype"])
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return [filled(v) for v in value] if isinstance(value, list) else value

    return document["durationSeconds"], [(t, filled(m)) for t, m in document["messages"]]


def seen_at(packed: bytes, seconds: float) -> dict[str, dict[str, Any]]:
    """Properties of every node when the recording has played for ``seconds``."""
    nodes: dict[str, dict[str, Any]] = {}
    for moment, message in decoded(packed)[1]:
        if moment <= seconds + 1e-6 and "name" in message:
            node = nodes.setdefault(message["name"], {})
            node.update(message.get("props") or {}, **(message.get("updates") or {}))
            node.update(
                {
                    k: v
                    for k, v in message.items()
                    if k in ("visible", "visibility", "wxyz", "position")
                }
            )
    return nodes


def splats_at(packed: bytes, seconds: float) -> Gaussians3D:
    """What is not transparent of all nodes of splats."""
    parts = []
    for name, node in seen_at(packed, seconds).items():
        if name.startswith("/gaussians/"):
            rows = np.frombuffer(node["buffer"].tobytes(), np.uint32).reshape(-1, 8)
            rgba = np.ascontiguousarray(rows[:, 7:]).view(np.uint8) / 255
            covariances = np.ascontiguousarray(rows[:, 4:7]).view(np.float16).astype(np.float64)
            parts.append(
                Gaussians3D(
                    torch.from_numpy(rows[:, :3].copy().view(np.float32)) * node["scale"],
                    torch.from_numpy(covariances).float() * node["scale"] ** 2,
                    torch.from_numpy(rgba[:, 3]).float(),
                    torch.from_numpy(rgba[:, None, :3]).float(),
                )
            )
    joined = Gaussians3D.cat(parts)
    return joined[joined.opacities > 0]


@pytest.fixture(scope="module")
def scene() -> GaussianScene:
    torch.manual_seed(0)
    return moving_scene()


@pytest.fixture(scope="module")
def film(scene: GaussianScene) -> Recording:
    return record(scene, "viser", fps=FPS)


def check(
    packed: bytes, scene: GaussianScene, played: float, seconds: float, least: float = FAINTEST
) -> int:
    expected = scene.world_at(seconds)
    expected = expected[expected.opacities >= least]
    shown = splats_at(packed, played)
    gaps = torch.cdist(expected.means.double(), shown.means.double())
    match = gaps.argmin(1)
    assert sorted(match.tolist()) == list(range(len(shown)))  # each once
    shown = shown[match]
    assert float((shown.means - expected.means).abs().max()) < 1e-4
    size = expected.covariances[:, [0, 3, 5]].sum(1, keepdim=True)
    assert float(((shown.covariances - expected.covariances) / size).abs().max()) < 2**-11
    assert float((shown.opacities - expected.opacities).abs().max()) < 0.5 / 255 + 1e-6
    colours = (0.5 + SH_C0 * expected.sh[:, 0]).clamp(0, 1)
    assert float((shown.sh[:, 0] - colours).abs().max()) < 0.5 / 255 + 1e-6
    return len(shown)


def test_every_moment_is_the_scenes(film: Recording, scene: GaussianScene) -> None:
    assert film.moments == pytest.approx([1.0 + i / FPS for i in range(11)])
    assert decoded(film.content)[0] == pytest.approx(11 / FPS)
    counts = [
        check(film.content, scene, i / FPS, seconds) for i, seconds in enumerate(film.moments)
    ]
    assert (
        film.still
        == int((scene.gaussians.is_static & (scene.gaussians.opacities >= FAINTEST)).sum())
        > 10
    )
    assert film.moving == max(counts) - film.still  # no more rows than are needed at once
    assert len(set(counts)) > 3


def test_faint_ones_are_left_out(scene: GaussianScene) -> None:
    film = record(scene, "viser", fps=2.0, min_opacity=0.5)
    assert 0 < check(film.content, scene, 1.0, 2.0, least=0.5) < len(scene.world_at(2.0))


def test_tiny_and_huge_units_survive_half_precision(scene: GaussianScene) -> None:
    for unit in (1e-4, 1e4):
        frame = dataclasses.replace(scene.frame, scale=scene.frame.scale / unit)
        c2w = scene.inputs.c2w.clone()
        c2w[:, :3, 3] *= unit
        T = frame.T_model_world.clone()
        T[:3, 3] *= unit
        frame = dataclasses.replace(frame, T_model_world=T)
        other = GaussianScene(scene.gaussians, frame, dataclasses.replace(scene.inputs, c2w=c2w))
        shown, expected = (
            splats_at(record(other, "viser", fps=1.0).content, 0.0),
            other.world_at(1.0),
        )
        expected = expected[expected.opacities >= FAINTEST]
        variances = [
            g.covariances[:, [0, 3, 5]].sum(1).double().sort().values for g in (shown, expected)
        ]
        assert float((variances[0] / variances[1] - 1).abs().max()) < 2**-10


def test_it_starts_at_the_first_camera_the_right_way_up(
    film: Recording, scene: GaussianScene
) -> None:
    first, messages = Camera.of_view(scene.inputs, 0), [m for _, m in decoded(film.content)[1]]
    told = {m["type"]: m for m in messages if m["type"].startswith("SetCamera")}
    assert all(m["initial"] for m in told.values())
    assert told["SetCameraPositionMessage"]["position"] == pytest.approx(first.position)
    assert told["SetCameraFovMessage"]["fov"] == pytest.approx(first.fov)
    assert told["SetCameraUpDirectionMessage"]["position"] == pytest.approx(
        up_direction(scene.inputs)
    )
    ahead = np.subtract(told["SetCameraLookAtMessage"]["look_at"], first.position)
    assert ahead / np.linalg.norm(ahead) == pytest.approx(first.c2w[:3, 2].numpy(), abs=1e-6)
    up = [
        m
        for _, m in decoded(record(scene, "viser", fps=1.0, up="-z").content)[1]
        if "UpDirection" in m["type"]
    ]
    assert up[0]["position"] == pytest.approx([0, 0, -1])


def test_what_is_behind_everything(scene: GaussianScene) -> None:
    background = torch.tensor([0.2, 0.4, 0.8])
    other = GaussianScene(scene.gaussians, scene.frame, scene.inputs, background=background)
    (message,) = (
        m
        for _, m in decoded(record(other, "viser", fps=1.0).content)[1]
        if m["type"] == "BackgroundImageMessage"
    )
    picture = cv2.imdecode(np.frombuffer(message["rgb_data"], np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture[0, 0, ::-1] / 255 == pytest.approx(background.numpy(), abs=0.003)


def test_no_input_camera_stands_in_the_scene(scene: GaussianScene) -> None:
    nodes = seen_at(record(scene, "viser", fps=1.0).content, 0.0)
    assert not [name for name in nodes if name.startswith("/inputs")]


def test_a_page_holds_the_same_recording(film: Recording, scene: GaussianScene) -> None:
    page = record(scene, "html", fps=FPS, name="a <b>").content.decode()
    embedded = page.split('__VISER_EMBED_DATA__="')[1].split('"')[0]
    duration, messages = decoded(base64.b64decode(embedded))
    assert duration == pytest.approx(11 / FPS)
    assert len(messages) == len(decoded(film.content)[1])
    check(base64.b64decode(embedded), scene, 1.0, 2.0)
    assert "<title>a &lt;b&gt;</title>" in page
    assert page.index("window.Worker") < page.index("data-p=")  # before viser's own script
    assert "darkMode:true" in page  # the scene's background is black


def test_one_moment_has_no_time(scene: GaussianScene) -> None:
    views = scene.inputs[:1]
    film = record(GaussianScene(scene.gaussians, scene.frame, views), "viser")
    assert film.moments == (1.0,)
    assert film.moving == 0  # nothing moves within one moment
    assert decoded(film.content)[0] == 0.0
    check(film.content, scene, 0.0, 1.0)


def test_too_much_is_refused(scene: GaussianScene, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no Gaussians to show.*--min-opacity"):
        record(scene, "viser", min_opacity=1.0)
    with pytest.raises(InputError, match="fps is nan"):
        record(scene, "viser", fps=float("nan"))
    monkeypatch.setattr(recording, "MAX_CONTENT", 1000)
    with pytest.raises(
        InputError, match=r"the viser would have .* MiB.*lower --fps, or raise --min-opacity"
    ):
        record(scene, "viser")
    monkeypatch.setattr(recording, "MAX_UNPACKED", 1000)
    with pytest.raises(
        InputError, match=r"in a browser's memory; lower --fps, or raise --min-opacity"
    ):
        record(scene, "viser")


def test_places_are_the_fewest_and_nobody_shares_one() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(-1, 20, 300)
    last = np.where(first < 0, -1, np.minimum(first + rng.integers(0, 8, 300), 19))
    slot, slots = interval_slots(first, last, 20)
    assert (slot[first < 0] == -1).all()
    most = 0
    for moment in range(20):
        there = slot[(first <= moment) & (moment <= last) & (first >= 0)]
        assert len(set(there.tolist())) == len(there)
        assert ((there >= 0) & (there < slots)).all()
        most = max(most, len(there))
    assert slots == most
