"""Lists of clips on several processes: `fsm reconstruct LIST` and `fsm eval LIST` in parts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fsm.cli import main
from fsm.evaluate.results import without_timings
from fsm.files import slug
from fsm.model import FSM
from fsm.open_scene import open_scene
from tests.cli.small_inputs import refused, tree, write_clip, write_model

IDS = ("a/clip", "b é/clip", "c/third")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, two of one file name, and a list of them."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a", "b é", "c"):
        (folder / name).mkdir()
        write_clip(folder / name)
    (folder / "c" / "clip.json").rename(folder / "c" / "third.json")
    (folder / "list.json").write_text(json.dumps(["a/clip.json", "b é/clip.json", "c/third.json"]))
    return folder


@pytest.fixture
def clips(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "clips")) / "list.json"


def reconstruct(clips: Path, out: Path, model: Path, *more: str) -> int:
    return main(
        ["reconstruct", str(clips), "-o", str(out), "--model", str(model), "--size", "64x32", *more]
    )


def files(out: Path) -> dict[str, object]:
    """Every file of a folder of scenes: to the byte, settings less the folder's own name and the
    part.
    """
    left_out = {"output", "shard"}
    return {
        name: {k: v for k, v in yaml.safe_load(data).items() if k not in left_out}
        if name.endswith(".yaml")
        else data
        for name, data in tree(out).items()
        if data is not None
    }


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every clip that is read."""
    genuine, calls = FSM.reconstruct, []
    monkeypatch.setattr(
        FSM, "reconstruct", lambda self, inputs: calls.append(1) or genuine(self, inputs)
    )
    return calls


def test_a_list_becomes_a_folder_of_scenes_the_same_in_parts(
    tmp_path: Path, clips: Path, model: Path, made: list[int]
) -> None:
    assert reconstruct(clips, tmp_path / "whole", model, "--inputs", "4") == 0
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {slug(id) for id in IDS}
    for id in IDS:
        scene = tmp_path / "whole" / slug(id)
        assert len(open_scene(scene).inputs) == 4
        assert yaml.safe_load((scene / "reconstruct.yaml").read_text())["id"] == id
    for part in ("3/3", "1/3", "2/3"):
        assert reconstruct(clips, tmp_path / "parts", model, "--inputs", "4", "--shard", part) == 0
    assert len(made) == 6
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_restart_does_only_what_is_not_whole(
    tmp_path: Path, clips: Path, model: Path, made: list[int]
) -> None:
    out = tmp_path / "out"
    assert reconstruct(clips, out, model) == 0
    before = files(out)
    (out / slug("b é/clip") / "reconstruct.yaml").unlink()  # what is written last
    shutil.rmtree(out / slug("c/third"))
    assert reconstruct(clips, out, model) == 0
    assert len(made) == 3 + 2
    assert files(out) == before


def test_scenes_of_other_settings_or_weights_are_kept_and_told_of(
    tmp_path: Path, clips: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert reconstruct(clips, out, model, "--shard", "1/3") == 0
    same = ["reconstruct", clips, "-o", out, "--model", model]
    says = refused([*same, "--size", "64x48"], capsys, tmp_path)
    made = Path(slug("a/clip")) / "reconstruct.yaml"
    assert f"{made} was written with other settings (differs in size); choose another" in says
    assert "(differs in frames)" in refused(
        [*same, "--size", "64x32", "--inputs", "5"], capsys, tmp_path
    )
    write_model(tmp_path / "wider", dim=48)
    other = ["reconstruct", clips, "-o", out, "--model", tmp_path / "wider", "--size", "64x32"]
    assert "(differs in model, weights)" in refused(other, capsys, tmp_path)
    assert "which is a scene" in refused(
        ["reconstruct", clips, "-o", out / slug("a/clip"), "--model", model], capsys, tmp_path
    )


def test_a_bad_clip_costs_itself_alone_and_the_last_part_says_so(
    tmp_path: Path, clips: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bad = tmp_path / "out", clips.parent / "b é" / "clip.json"
    good = bad.read_text()
    bad.write_text("{}")
    assert reconstruct(clips, out, model, "--shard", "2/2") == 0
    assert "missing" not in capsys.readouterr().out
    assert reconstruct(clips, out, model, "--shard", "1/2") == 1
    said = capsys.readouterr().out
    assert "2 of 3 scenes" in said
    assert "missing b é/clip: " in said
    bad.write_text(good)
    assert reconstruct(clips, out, model) == 0
    assert {Path(name).parts[0] for name in files(out)} == {slug(id) for id in IDS}


def test_a_shard_of_one_clip_is_refused(
    tmp_path: Path, clips: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = [
        "reconstruct",
        clips,
        "--id",
        "c/third",
        "-o",
        tmp_path / "out",
        "--model",
        model,
        "--shard",
        "1/2",
    ]
    assert "is one clip" in refused(one, capsys, tmp_path)
    assert "shard is '5'" in refused(
        ["eval", clips, "-o", tmp_path / "out", "--shard", "5"], capsys, tmp_path
    )


def test_a_slurm_array_reads_each_clip_once(
    tmp_path: Path, clips: Path, model: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COUNT": "2", "MIN": "4", "MAX": "5"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for task in ("4", "5"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert reconstruct(clips, tmp_path / "out", model) == 0
    assert len(made) == 3
    # one clip is not shared out
    assert reconstruct(clips, tmp_path / "one", model, "--id", "c/third") == 0


def evaluation(clips: Path, out: Path) -> list[str]:
    flags = ["--model", "none", "--lpips", "none", "--size", "64x32", "--protocol", "dense"]
    return ["eval", str(clips), "-o", str(out), *flags]


def numbers(out: Path) -> object:
    return without_timings(json.loads((out / "results.json").read_text()))


def test_the_part_that_comes_last_reports_on_all(
    tmp_path: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(evaluation(clips, tmp_path / "whole")) == 0
    capsys.readouterr()
    assert main([*evaluation(clips, tmp_path / "parts"), "--shard", "2/2"]) == 0
    assert "shard 2/2 done; 1 of 3 clips so far" in capsys.readouterr().out
    assert not (tmp_path / "parts" / "report.html").exists()
    assert main([*evaluation(clips, tmp_path / "parts"), "--shard", "1/2"]) == 0
    assert "3 of 3 scenes" in capsys.readouterr().out
    assert set(tree(tmp_path / "parts")) == set(tree(tmp_path / "whole"))
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_torchrun_shares_out_an_evaluation(tmp_path: Path, clips: Path) -> None:
    assert main(evaluation(clips, tmp_path / "whole")) == 0
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "fsm",
    ]
    done = subprocess.run(
        [*launch, *evaluation(clips, tmp_path / "parts")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(tree(tmp_path / "parts")) == set(tree(tmp_path / "whole"))
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
