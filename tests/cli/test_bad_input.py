"""Bad input through the whole command line: status 2, one sentence that names file and field,
nothing written.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fsm.cli import main
from tests.cli.small_inputs import refused, tree, write_clip, write_model
from tests.datasets.media import counter_video

Change = Callable[[dict], object]


def _pose(i: int, row: int, column: int, value: float) -> Change:
    return lambda clip: clip["frames"][i]["w2c"][row].__setitem__(column, value)


def _frame(i: int, **fields) -> Change:
    return lambda clip: clip["frames"][i].update(fields)


def _scaled_rotation(clip: dict) -> None:
    for row in clip["frames"][4]["w2c"][:3]:
        row[:3] = [1.5 * x for x in row[:3]]


def _mirrored_rotation(clip: dict) -> None:
    clip["frames"][4]["w2c"][0][:3] = [-x for x in clip["frames"][4]["w2c"][0][:3]]


def _normalised(clip: dict) -> None:
    for frame in clip["frames"]:
        frame.update(fx=0.9, fy=0.9, cx=0.5, cy=0.5)


BAD_CLIPS: dict[str, tuple[Change, str]] = {
    "NaN pose": (
        _pose(3, 0, 3, float("nan")),
        r"clip\.json: frame 3, w2c contains NaN or infinity; remove",
    ),
    "infinite pose": (
        _pose(3, 1, 1, float("inf")),
        r"clip\.json: frame 3, w2c contains NaN or infinity",
    ),
    "scaled rotation": (
        _scaled_rotation,
        r"frame 4, w2c is not a rotation \(off by 0\.5.*--fix-poses",
    ),
    "mirrored rotation": (_mirrored_rotation, r"frame 4, w2c has a mirrored or flat rotation"),
    "transposed pose": (_pose(2, 3, 0, 0.5), r"frame 2, w2c has last row .*transposed"),
    "pose of words": (
        lambda c: c["frames"][1].update(w2c="identity"),
        r"frames\[1\]: w2c is 'identity'",
    ),
    "pose too small": (
        lambda c: c["frames"][1].update(w2c=[[1.0]]),
        r"frames\[1\]: w2c has shape \(1, 1\)",
    ),
    "focal length zero": (_frame(5, fx=0.0), r"clip\.json: frame 5, fx is 0.* positive"),
    "focal length negative": (_frame(5, fy=-100.0), r"frame 5, fy is -100"),
    "focal length NaN": (_frame(5, fx=float("nan")), r"frames\[5\]: fx is nan"),
    "normalised intrinsics": (
        _normalised,
        r"frame 0, fx is 0\.9.* looks normalised: multiply by the image size",
    ),
    "centre outside the picture": (_frame(5, cx=5000.0), r"frame 5, cx is 5000"),
    "more poses than frames": (
        _frame(19, frame_idx=25),
        r"frames\[19\]\.frame_idx is 25, but clip\.mp4 has 20 frames",
    ),
    "fewer frames than stated": (
        lambda c: c.update(num_video_frames=30),
        "num_video_frames is 30, .* has 20 frames",
    ),
    "repeated time": (
        _frame(7, frame_idx=6),
        r"frame 7, time 0\.2 s repeats that of frame 6 .*sort the frames",
    ),
    "unsorted times": (
        _frame(7, frame_idx=3),
        r"frame 7, time 0\.1 s lies before .*sort the frames",
    ),
    "negative time": (_frame(0, frame_idx=-1), r"frames\[0\]: frame_idx is -1"),
    "rate zero": (lambda c: c.update(fps=0), r"clip\.json: fps is 0"),
    "no frames": (lambda c: c.update(frames=[]), "frames should be a list with at least one entry"),
    "no poses": (lambda c: c["frames"][2].pop("w2c"), r"frames\[2\] lacks the field 'w2c'"),
    "no video named": (lambda c: c.pop("video_path"), "lacks the field 'video_path'"),
    "video missing": (
        lambda c: c.update(video_path="gone.mp4"),
        r"video_path: 'gone\.mp4' does not exist",
    ),
    "video outside": (
        lambda c: c.update(video_path="../outside.mp4"),
        r"video_path: .*(leads out|does not exist)",
    ),
    "video absolute": (
        lambda c: c.update(video_path="/etc/passwd"),
        r"video_path: '/etc/passwd' leads out",
    ),
    "video with a zero byte": (
        lambda c: c.update(video_path="a\0b.mp4"),
        "video_path: .*not a usable path",
    ),
    "video over the network": (
        lambda c: c.update(video_path="http://localhost:9/a.mp4"),
        r"video_path: 'http://localhost:9/a\.mp4' does not exist",
    ),
    "plan outside the clip": (
        lambda c: c.update(index_plan={"input_index": [0], "target_index": [99]}),
        r"index_plan\.target_index names frame 99, but the clip has 20 frames",
    ),
    "plan that shares frames": (
        lambda c: c.update(index_plan={"input_index": [0, 1], "target_index": [1]}),
        r"index_plan uses frames \[1\] both as input and as target",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def clip(tmp_path: Path, clip_bytes: dict[str, bytes]) -> Path:
    """A good clip in a folder of its own, with a video outside that nothing may open."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, content in clip_bytes.items():
        (folder / name).write_bytes(content)
    (tmp_path / "outside.mp4").write_bytes(clip_bytes["clip.mp4"])
    return folder / "clip.json"


def _reconstruct(clip: Path, model: Path) -> list[str | Path]:
    return [
        "reconstruct",
        clip,
        "-o",
        clip.parent.parent / "scene",
        "--model",
        model,
        "--size",
        "64x32",
    ]


@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_bad_clips(
    kind: str, clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = BAD_CLIPS[kind]
    value = json.loads(clip.read_text())
    change(value)
    clip.write_text(json.dumps(value))
    line = refused(_reconstruct(clip, model), capsys, tmp_path)
    assert re.search(says, line), line
    assert "clip.json" in line


@pytest.mark.parametrize("kind", ["NaN pose", "normalised intrinsics", "video missing"])
def test_every_command_that_reads_clips_refuses_them(
    kind: str, clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(clip.read_text())
    BAD_CLIPS[kind][0](value)
    clip.write_text(json.dumps(value))
    report = tmp_path / "report"
    assert "clip.json" in refused(["inspect", clip], capsys, tmp_path)
    flags = ["--model", model, "--lpips", "none", "--size", "64x32"]
    assert "clip.json" in refused(["eval", clip, "-o", report, *flags], capsys, tmp_path)


def test_a_scaled_rotation_can_be_mended(clip: Path, model: Path) -> None:
    value = json.loads(clip.read_text())
    _scaled_rotation(value)
    clip.write_text(json.dumps(value))
    assert main([str(a) for a in (*_reconstruct(clip, model), "--fix-poses")]) == 0


VIDEOS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-100],
    "its first bytes": lambda data: data[:40],
    "text": lambda data: b"#EXTM3U\nhttp://localhost:9/a.ts\n",
    "noise": lambda data: bytes(range(256)) * 20,
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_damaged_videos(
    kind: str, clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = clip.parent / "clip.mp4"
    video.write_bytes(VIDEOS[kind](video.read_bytes()))
    assert "clip.mp4" in refused(_reconstruct(clip, model), capsys, tmp_path)


LISTS = {
    "missing file": (["clip.json", "gone.json"], r"entry 1: 'gone.json' does not exist"),
    "path traversal": (
        ["../../../../etc/passwd"],
        "entry 0: '../../../../etc/passwd' leads out of the data folder",
    ),
    "absolute path": (["/etc/passwd"], "entry 0: '/etc/passwd' leads out of the data folder"),
    "link that leaves": (["link.json"], "entry 0: 'link.json' leads out of the data folder"),
    "zero byte": (["a\0b.json"], "entry 0: .* is not a usable path"),
    "shell characters": (["$(touch canary); `touch canary`.json"], "entry 0: .* does not exist"),
    "not text": ([3], "should hold one clip .* or a list of clip paths"),
    "empty": ([], "should hold one clip .* or a list of clip paths"),
    "same clip twice": (["clip.json", "clip.json"], "clip 'clip' is listed twice"),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("command", ["inspect", "eval", "train"])
def test_bad_lists(
    kind: str,
    command: str,
    clip: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries, says = LISTS[kind]
    (tmp_path / "elsewhere.json").write_bytes(clip.read_bytes())
    (clip.parent / "link.json").symlink_to(tmp_path / "elsewhere.json")
    listed = clip.parent / "list.json"
    listed.write_text(json.dumps(entries))
    out = tmp_path / "out"
    arguments: dict[str, list[str | Path]] = {
        "inspect": ["inspect", listed],
        "eval": ["eval", listed, "-o", out, "--model", model, "--lpips", "none"],
        "train": ["train", "tiny", "-o", out, "--data", str(listed), "--set", "optim.lpips=none"],
    }
    line = refused(arguments[command], capsys, tmp_path)
    assert "list.json" in line
    assert re.search(says, line), line


def test_eval_reports_the_one_bad_clip_of_a_list_as_missing(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(clip.read_text())
    _pose(3, 0, 3, float("nan"))(value)
    (clip.parent / "bad.json").write_text(json.dumps(value))
    (clip.parent / "list.json").write_text(json.dumps(["clip.json", "bad.json"]))
    flags = ["--model", "none", "--lpips", "none", "--size", "64x32"]
    assert (
        main(["eval", str(clip.parent / "list.json"), "-o", str(tmp_path / "report"), *flags]) == 1
    )
    missing = json.loads((tmp_path / "report" / "results.json").read_text())["missing"]
    assert [m["id"] for m in missing] == ["bad"]
    assert "NaN" in missing[0]["reason"]


def test_stereo4d_counts_that_disagree(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    counter_video(folder / "a.mp4", 6)
    poses = np.tile(np.eye(4)[:3], (5, 1, 1))
    np.savez(folder / "a.npz", timestamps=np.arange(6) * 33333, camera2world=poses)
    flags = ["-o", tmp_path / "scene", "--model", model]
    line = refused(["reconstruct", folder / "a.npz", *flags], capsys, tmp_path)
    assert "a.npz" in line
    assert "5" in line
    assert "6" in line


@pytest.mark.parametrize(
    "name", ["gone", "gone.json", "gone.npz", "gone.txt", "world:-1", "world:x", "synthetic:3"]
)
def test_clips_that_are_nowhere(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = name if ":" in name else str(tmp_path / name)
    line = refused(
        ["reconstruct", where, "-o", tmp_path / "scene", "--model", model], capsys, tmp_path
    )
    assert name in line


FLAGS = {
    "negative number of inputs": (["--inputs", "-1"], "--inputs is -1"),
    "every frame held out": (["--hold-out", "1"], "--hold-out is 1"),
    "no size": (["--size", "0"], "size is '0'"),
    "no such clip in the file": (["--id", "other"], "no clip 'other'"),
    "no such device": (["--device", "abacus"], "device is 'abacus'"),
    "no such model": (["--model", "no-such-model"], "no checkpoint 'no-such-model'"),
}


@pytest.mark.parametrize("kind", FLAGS)
def test_bad_flags(
    kind: str, clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, says = FLAGS[kind]
    assert says in refused([*_reconstruct(clip, model), *flags], capsys, tmp_path)


def _pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _poison(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["encoder.embed.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def _other_shape(folder: Path) -> None:
    write_model(folder.parent / "wide", dim=64)
    (folder.parent / "wide" / "model.safetensors").replace(folder / "model.safetensors")


def _edit(**values) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["model"]["encoder"].update(values)
        (folder / "config.json").write_text(json.dumps(config))

    return change


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (_pickle, "model.safetensors declares a header|model.safetensors is not a"),
    "truncated": (_truncate, r"model\.safetensors is not a complete safetensors file"),
    "NaN": (_poison, r"encoder\.embed\.weight holds NaN"),
    "another shape": (_other_shape, r"has shape \(64, 3328\) instead of \(32, 3328\)"),
    "unknown key": (
        _edit(layrs=2),
        r"config\.json: encoder has unknown key 'layrs'; did you mean 'layers'\?",
    ),
    "wrong type": (_edit(layers="many"), r"layers is 'many' \(str\), expected int"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"model\.safetensors cannot be read",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json cannot be read"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_bad_models(
    kind: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model")
    change, says = MODELS[kind]
    change(folder)
    for command in (
        _reconstruct(clip, folder),
        ["eval", clip, "-o", tmp_path / "report", "--model", folder, "--lpips", "none"],
        ["demo", "-o", tmp_path / "demo", "--model", folder],
        ["convert", folder, "-o", tmp_path / "converted"],
    ):
        line = refused(command, capsys, tmp_path)
        assert re.search(says, line), line


CONFIGS = {
    "unknown preset": (
        ["huge"],
        "no preset or config file 'huge'; presets are ablation, ablation-small, base, "
        "base-lrm, small, tiny, tiny-lrm",
    ),
    "unknown key": (
        ["tiny", "--set", "optim.stpes=3"],
        "unknown key 'stpes'; did you mean 'steps'?",
    ),
    "unknown part": (
        ["tiny", "--set", "modle.encoder.layers=3"],
        "unknown key 'modle'; did you mean 'model'?",
    ),
    "wrong type": (
        ["tiny", "--set", "optim.steps=many"],
        "optim: steps is 'many' (str), expected int",
    ),
    "out of range": (["tiny", "--set", "optim.steps=0"], "steps is 0"),
    "no value": (["tiny", "--set", "optim.steps"], "is not KEY=VALUE"),
    "no such source": (["tiny", "--data", "gone.json:2"], "gone.json"),
    "weight zero": (["tiny", "--data", "world:0"], "weight"),
    "removed source": (["tiny", "--data", "synthetic"], "use 'world'"),
    "size the patch does not divide": (["tiny", "--set", "data.hw=[30, 30]"], "patch size 16"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_bad_training_configs(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, says = CONFIGS[kind]
    lpips = ["optim.lpips=none"] if "--set" in arguments else ["--set", "optim.lpips=none"]
    line = refused(["train", *arguments, *lpips, "-o", tmp_path / "run"], capsys, tmp_path)
    assert says in line


def test_a_hostile_config_file_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    for text in (
        "model: !!python/object/apply:os.system [touch canary]\n",
        "model: {class_name: os.system}\n",
        "a: &a [1, 1]\nb: [*a, *a]\n",
        "[" * 50_000,
    ):
        path.write_text(text)
        assert "run.yaml" in refused(["train", path, "-o", tmp_path / "run"], capsys, tmp_path)


@pytest.mark.parametrize(
    "name", ["scene.json", "memory.safetensors", "model/model.safetensors", "model/config.json"]
)
@pytest.mark.parametrize("how", ["missing", "empty", "half"])
def test_damaged_scenes(
    name: str, how: str, clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(a) for a in _reconstruct(clip, model)]) == 0
    path = tmp_path / "scene" / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if how == "half" else b"")
    line = refused(["render", tmp_path / "scene", "-o", tmp_path / "film"], capsys, tmp_path)
    assert Path(name).name in line


def test_a_pickled_payload_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Canary:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "canary",))

    torch.save({"model": {"a": Canary()}}, tmp_path / "evil.pth")
    line = refused(["convert", tmp_path / "evil.pth", "-o", tmp_path / "out"], capsys, tmp_path)
    assert "evil.pth was refused" in line
    assert "canary" not in tree(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"plans": {"clip": {"input_index": [0], "target_index": [0]}}}']
)
def test_bad_plans(
    content: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plans.json").write_text(content)
    flags = [
        "--model",
        "none",
        "--lpips",
        "none",
        "--size",
        "64x32",
        "--plans",
        tmp_path / "plans.json",
    ]
    assert "plans.json" in refused(
        ["eval", clip, "-o", tmp_path / "report", *flags], capsys, tmp_path
    )
