"""Every command after the other, as a user would: train, reconstruct, render, inspect, evaluate,
check.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import safetensors.torch
import torch
import yaml

import fsm.cli.demo
from fsm.checkpoint import weights_hash
from fsm.cli import main
from fsm.datasets.open import open_clip
from fsm.memory_scene import MemoryScene
from fsm.model import FSM
from fsm.open_scene import open_scene
from tests.cli.small_inputs import FRAMES, refused, tree, write_clip, write_model

TINY = (
    "model.encoder.layers=1",
    "model.encoder.block={dim: 32, attention_head_dim: 16, mlp_ratio: 2, ns_dtype: float32}",
    "model.head={kind: reference, references: 2, hidden: 16, refinements: [4], "
    "stereo: {sources: 2, sweep: {planes: 4}}, "
    "refinement_width: 8}",
    "data.hw=[32, 64]",
    "stages=[]",
    "data.batch=1",
    "data.inputs=[4]",
    "data.targets=2",
    "data.window=[8, 12]",
    "data.even=1.0",
    "optim.steps=3",
    "optim.lpips=none",
    "log_every=1",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(autouse=True)
def _without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def test_from_training_to_numbers(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, scene, film, report = (tmp_path / name for name in ("run", "scene", "film", "report"))
    train = [
        "train",
        "tiny",
        "-o",
        str(run),
        "--data",
        f"{clip}:2",
        "world:1",
        "--device",
        "cpu",
        "--set",
        *TINY,
    ]
    assert main([*train, "--stop-after", "2"]) == 0
    assert main(train) == 0
    assert "tokens/s; " in capsys.readouterr().out
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log] == [1, 2, 3]
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["sources"] == [
        {"path": str(clip), "weight": 2.0},
        {"path": "world", "weight": 1.0},
    ]
    assert (config["data"]["hw"], config["optim"]["steps"]) == ([32, 64], 3)

    flags = ["--model", str(run / "model"), "--inputs", "5", "--hold-out", "4", "--size", "64x32"]
    assert main(["reconstruct", str(clip), "-o", str(scene), *flags]) == 0
    settings = yaml.safe_load((scene / "reconstruct.yaml").read_text())
    assert settings["size"] == "64x32"
    assert len(settings["frames"]) == 5
    assert not set(settings["frames"]) & set(range(2, FRAMES, 4))
    opened = open_scene(scene)
    assert isinstance(opened, MemoryScene)
    assert torch.equal(opened.inputs.time, open_clip(clip).cameras.time[settings["frames"]])
    assert weights_hash(opened.model) == weights_hash(FSM.from_pretrained(run / "model"))

    assert (
        main(["render", str(scene), "-o", str(film), "--frames", "3", "--path", "interpolate"]) == 0
    )
    with av.open(str(film / "video.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [f.shape for f in frames] == [(32, 64, 3)] * 3

    capsys.readouterr()
    assert main(["inspect", str(clip), "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["frames"] == FRAMES

    flags = [
        "--model",
        str(run / "model"),
        "--lpips",
        "none",
        "--size",
        "64x32",
        "--protocol",
        "sparse",
    ]
    assert main(["eval", str(clip), "-o", str(report), *flags]) == 0
    results = json.loads((report / "results.json").read_text())
    said = json.dumps(results)
    for method in ("nearest", "blend", "flow"):
        assert method in said
    assert {p.name for p in report.iterdir()} >= {
        "results.json",
        "results.csv",
        "report.html",
        "plans.json",
    }
    again = tmp_path / "again"
    assert (
        main(["eval", str(clip), "-o", str(again), *flags, "--plans", str(report / "plans.json")])
        == 0
    )
    one, other = (json.loads((p / "plans.json").read_text())["plans"] for p in (report, again))
    assert one == other


def test_reconstructing_again_replaces_the_scene_and_nothing_else(
    tmp_path: Path, clip: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(model), "--size", "64x32"]
    for count in (3, 4):
        assert (
            main(
                [
                    "reconstruct",
                    str(clip),
                    "-o",
                    str(tmp_path / "scene"),
                    "--inputs",
                    str(count),
                    *flags,
                ]
            )
            == 0
        )
    assert len(open_scene(tmp_path / "scene").inputs) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("years of work")
    says = refused(["reconstruct", clip, "-o", thesis, *flags], capsys, tmp_path)
    assert "exists and is not a scene" in says


def test_baselines_need_no_model(tmp_path: Path, clip: Path) -> None:
    flags = ["--model", "none", "--lpips", "none", "--size", "64x32", "--protocol", "dense"]
    assert main(["eval", str(clip), "-o", str(tmp_path / "report"), *flags]) == 0
    assert (tmp_path / "report" / "results.csv").is_file()


def test_cameras_in_one_point_reconstruct_and_render_without_nan(
    tmp_path: Path, model: Path
) -> None:
    """A camera on a tripod that only turns, and one that does not even turn: no baseline to
    normalise by.
    """
    for turns in (True, False):

        def still(value: dict, turns: bool = turns) -> None:
            for frame in value["frames"]:
                for row in frame["w2c"][:3]:
                    row[3] = 0.0
                if not turns:
                    frame["w2c"] = [[float(i == j) for j in range(4)] for i in range(4)]

        path = write_clip(tmp_path / str(turns), still)
        scene = tmp_path / f"scene-{turns}"
        flags = ["--model", str(model), "--size", "64x32", "--inputs", "4"]
        assert main(["reconstruct", str(path), "-o", str(scene), *flags]) == 0
        opened = open_scene(scene)
        rendering = opened.render(opened.inputs)
        assert bool(torch.isfinite(rendering.rgb).all())
        assert rendering.depth is not None
        assert bool(torch.isfinite(rendering.depth).all())
        for path_kind in ("orbit", "spiral", "interpolate", "input"):
            out = tmp_path / f"{path_kind}-{turns}"
            assert (
                main(["render", str(scene), "-o", str(out), "--frames", "2", "--path", path_kind])
                == 0
            )


def test_demo_writes_film_sheet_metrics_and_scene(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fsm.cli.demo, "FILM_FRAMES", 3)
    monkeypatch.setattr(fsm.cli.demo, "HOLD_OUT", 24)
    out = tmp_path / "demo"
    assert main(["demo", "-o", str(out), "--model", str(model)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "contact_sheet.png",
        "demo.mp4",
        "metrics.json",
        "scene",
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    for rows in ("held-out frames", "novel views", "frozen time, camera moves"):
        assert {"ours", "nearest", "blend", "flow"} <= set(metrics[rows])
        assert metrics[rows]["ours"]["psnr_standing"] > 0
    assert str(out) in " ".join(capsys.readouterr().out.split())


def test_doctor_prints_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for name in ("torch", "devices", "gsplat", "PyAV", "LPIPS weights", "bundled models"):
        assert name in said


def test_doctor_judges_golden_files(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = shared_data / "golden" / "lacet_mas_global.safetensors"
    assert (
        main(
            [
                "doctor",
                "--golden",
                str(good),
                str(shared_data / "golden" / "lact_1chunk.safetensors"),
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.count(" ok") == 2
    tensors = safetensors.torch.load_file(good)
    with safetensors.safe_open(good, framework="pt") as handle:
        meta = handle.metadata()
    tensors["output.rgb"] = tensors["output.rgb"] + 1e-3
    off = tmp_path / "off.safetensors"
    safetensors.torch.save_file(tensors, off, meta)
    assert main(["doctor", "--golden", str(off)]) == 1
    assert "OFF" in capsys.readouterr().out
    off.write_bytes(off.read_bytes()[:100])
    assert main(["doctor", "--golden", str(off)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["reconstruct", "{clip}", "--model", "{model}"], "fsm.model.FSM.reconstruct"),
        (["eval", "{clip}", "--model", "{model}", "--lpips", "none"], "fsm.model.FSM.reconstruct"),
        (["demo", "--model", "{model}"], "fsm.model.FSM.reconstruct"),
        (["train", "tiny", "--set", "optim.lpips=none"], "fsm.train.data.SampleStream.batch"),
        (["convert", "{pth}"], "torch.load"),
    ],
)
@pytest.mark.parametrize("place", ["file", "file/out"])
def test_an_output_that_cannot_be_written_is_known_before_the_work(
    tmp_path: Path,
    clip: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    target: str,
    place: str,
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "a.pth").write_bytes(b"")

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(target, work)
    filled = [a.format(clip=clip, model=model, pth=tmp_path / "a.pth") for a in arguments]
    assert "file" in refused([*filled, "-o", tmp_path / place], capsys, tmp_path)


def test_ctrl_c_leaves_nothing_half_written(
    tmp_path: Path,
    clip: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FSM, "reconstruct", interrupt)
        assert (
            main(["reconstruct", str(clip), "-o", str(tmp_path / "scene"), "--model", str(model)])
            == 130
        )
    assert capsys.readouterr().err == "error: interrupted\n"
    with monkeypatch.context() as patch:
        patch.setattr("fsm.memory_scene.write_json", interrupt)
        assert (
            main(["reconstruct", str(clip), "-o", str(tmp_path / "scene"), "--model", str(model)])
            == 130
        )
    assert tree(tmp_path) == {}
    main(
        [
            "reconstruct",
            str(clip),
            "-o",
            str(tmp_path / "scene"),
            "--model",
            str(model),
            "--size",
            "64x32",
        ]
    )
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("fsm.renderers.film.video.to_uint8", interrupt)
        assert (
            main(["render", str(tmp_path / "scene"), "-o", str(tmp_path / "film"), "--frames", "2"])
            == 130
        )
    assert {k: v for k, v in tree(tmp_path).items() if k != "film"} == before


@pytest.mark.slow
def test_ctrl_c_of_a_real_training_saves_and_exits_with_130(tmp_path: Path) -> None:
    out = tmp_path / "run"
    start = "import sys; from fsm.cli import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        start,
        "train",
        "tiny",
        "-o",
        str(out),
        "--threads",
        "1",
        "--set",
        *TINY,
    ]
    command[-1:] = ["log_every=1", "optim.steps=100000", "save_every=100000"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count("\n") < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "error: interrupted"
    steps = torch.load(out / "state.pt", weights_only=True)["step"]
    assert steps == (out / "log.jsonl").read_text().count("\n")
    assert FSM.from_pretrained(out / "model")
