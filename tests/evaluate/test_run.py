"""The runner against stub scenes: what it counts, what it shows a scene, how it resumes, what it
reports.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from fsm.datasets.base import Clip, IndexPlan, MemoryClip
from fsm.errors import InputError
from fsm.evaluate.baselines import nearest
from fsm.evaluate.metrics import Metrics, mean_score
from fsm.evaluate.pictures import contact_sheet, error_map, load_pictures, save_pictures
from fsm.evaluate.protocols import Dense, Given, Sparse, load_plans
from fsm.evaluate.report import best_rows, latex_row, print_table, write_report
from fsm.evaluate.results import EvaluationResult, ModelInfo, without_timings
from fsm.evaluate.run import Evaluation, evaluate
from fsm.evaluate.scoring import Method
from fsm.files import slug
from fsm.views import Rendering, Views

HW = (32, 40)
INFO = ModelInfo("stub", "0123456789abcdef", "cpu", "float32")


def moving_clip(id: str, frames: int, plan: IndexPlan | None = None) -> MemoryClip:
    """A smooth pattern that drifts; odd size, so that scaling and cropping take part."""
    y, x = torch.meshgrid(torch.arange(50.0), torch.arange(60.0), indexing="ij")
    phase = torch.arange(frames)[:, None, None] * 0.3 + len(id)
    waves = [torch.sin(x / 4 + phase), torch.sin(y / 5 - phase), torch.sin((x + y) / 6 + 2 * phase)]
    pixels = ((torch.stack(waves, 1) * 0.4 + 0.5) * 255).round().byte()
    cameras = Views(
        torch.eye(4).repeat(frames, 1, 1),
        torch.tensor([50.0, 50, 30, 25]).repeat(frames, 1),
        torch.arange(frames) / 30,
        (50, 60),
    )
    return MemoryClip(id, f"{id}.json", cameras, pixels, None, 30.0, plan)


@dataclass
class Clips:
    """A data set in memory; clips of ``broken`` cannot be opened, ``opened`` counts."""

    clips: dict[str, Clip]
    broken: set[str] = field(default_factory=set)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.clips)

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, id: str) -> Clip:
        if id in self.broken:
            raise InputError(f"{id}.json cannot be read; check the path.")
        return self.clips[id]


def three() -> Clips:
    return Clips({id: moving_clip(id, n) for id, n in (("a", 20), ("b/c", 30), ("..d", 41))})


class Copier:
    """A scene that copies the nearest input and writes down what it was shown."""

    made = 0

    def __init__(self, inputs: Views) -> None:
        Copier.made += 1
        self.inputs = inputs
        self.frames_seen = inputs.frame_ids
        self.requests: list[Views] = []
        Copier.last = self

    def render(self, views: Views) -> Rendering:
        self.requests.append(views)
        return Rendering(nearest(self.inputs, views))

    def save(self, path: Path | str) -> None:
        raise NotImplementedError


class Oracle(Copier):
    """Knows one clip entirely and finds the asked moment by its time."""

    clip: Clip

    def render(self, views: Views) -> Rendering:
        index = (views.time * 30).round().int()
        rgb = self.clip.views(index, views.hw).rgb
        assert rgb is not None
        return Rendering(rgb)


class Leaky(Copier):
    """Says that it has seen a frame besides its inputs."""

    clip: Clip
    number: int

    def __init__(self, inputs: Views) -> None:
        super().__init__(inputs)
        ids = self.clip.cameras.frame_ids
        assert ids is not None
        assert self.frames_seen is not None
        self.frames_seen = torch.cat([self.frames_seen, ids[self.number, None]])


def test_a_scene_that_has_seen_a_target_is_not_scored(tmp_path: Path) -> None:
    clips = three()
    plan = Dense().plan(20, "a", 0)
    Leaky.clip, Leaky.number = clips.clip("a"), plan.target_index[1]

    def run(out: str):
        out_, protocol = tmp_path / out, Dense(hw=HW)
        return evaluate(Method(Leaky, INFO), clips, Evaluation(protocol, Metrics()), out_)

    result = run("planted")
    assert [scene.id for scene in result.scenes] == ["b/c", "..d"]
    (missing,) = result.missing
    assert missing.id == "a"
    assert f"the scene has seen the frames [{plan.target_index[1]}]" in missing.reason
    Leaky.number = next(i for i in range(20) if i not in plan.target_index)
    assert not run("clean").missing


def test_rows_counts_and_means(tmp_path: Path) -> None:
    """Each image of the plan is scored once for the model and each baseline; a copy of a baseline
    gets its numbers.
    """
    result = evaluate(Method(Copier, INFO), three(), Evaluation(Dense(hw=HW), Metrics()), tmp_path)
    assert result.rows == ("model", "nearest", "blend", "flow")
    for scene, (id, length) in zip(
        result.scenes, (("a", 20), ("b/c", 30), ("..d", 41)), strict=True
    ):
        plan = Dense().plan(length, id, 0)
        assert (scene.id, scene.frames) == (id, length)
        assert (scene.input_index, scene.target_index) == (plan.input_index, plan.target_index)
        assert {len(scores) for scores in scene.scores.values()} == {len(plan.target_index)}
        assert scene.scores["model"] == scene.scores["nearest"]
        assert scene.scores["flow"] != scene.scores["blend"]
        assert scene.timings.encode_seconds is not None
    expected = np.mean(
        [np.mean([s.psnr for s in scene.scores["model"]]) for scene in result.scenes]
    )
    assert result.mean["model"].psnr == pytest.approx(expected, rel=1e-12)
    assert load_plans(tmp_path / "plans.json")["b/c"] == Dense().plan(30, "b/c", 0)


def test_the_truth_scores_perfectly(tmp_path: Path) -> None:
    """The right frames at the right times at the right size give the ceiling, so nothing is shifted
    or swapped.
    """
    clips = three()
    Oracle.clip = clips.clip("a")
    result = evaluate(
        Method(Oracle, INFO), clips, Evaluation(Sparse(hw=HW), Metrics()), tmp_path, ids=["a"]
    )
    assert all(s.psnr == 100.0 and s.ssim == 1.0 for s in result.scenes[0].scores["model"])
    assert all(s.psnr < 50 for s in result.scenes[0].scores["blend"])


def test_the_scene_never_sees_a_target(tmp_path: Path) -> None:
    clips = three()
    mask = torch.ones(20, 1, 50, 60, dtype=torch.bool)
    original = moving_clip("a", 20)
    clips.clips["a"] = MemoryClip("a", "a.json", original.cameras, original.pixels, mask)
    evaluate(Method(Copier, INFO), clips, Evaluation(Sparse(hw=HW), Metrics()), tmp_path, ids=["a"])
    (request,) = Copier.last.requests
    assert request.rgb is None
    assert request.mask is None
    plan = Sparse().plan(20, "a", 0)
    torch.testing.assert_close(
        Copier.last.inputs.time * 30, torch.tensor(plan.input_index, dtype=torch.float32)
    )
    torch.testing.assert_close(
        request.time * 30, torch.tensor(plan.target_index, dtype=torch.float32)
    )
    seen = Copier.last.inputs.rgb
    assert seen is not None
    assert seen.untyped_storage().nbytes() == seen.numel() * 4  # not even behind the tensor's end
    truth = clips.clip("a").views(plan.target_index, HW).rgb
    assert truth is not None
    assert not any(torch.equal(a, b) for a in seen for b in truth)


class Interrupted(Exception):
    pass


def test_interrupted_run_resumes_to_the_same_json(tmp_path: Path) -> None:
    whole = evaluate(
        Method(Copier, INFO), three(), Evaluation(Dense(hw=HW), Metrics()), tmp_path / "whole"
    )
    before = Copier.made

    def falls_over(inputs: Views) -> Copier:
        if Copier.made == before + 2:
            raise Interrupted
        return Copier(inputs)

    with pytest.raises(Interrupted):
        evaluate(
            Method(falls_over, INFO),
            three(),
            Evaluation(Dense(hw=HW), Metrics()),
            tmp_path / "parts",
        )
    assert not (tmp_path / "parts" / "results.json").exists()
    assert len(list((tmp_path / "parts" / "scenes").iterdir())) == 2
    resumed = evaluate(
        Method(Copier, INFO), three(), Evaluation(Dense(hw=HW), Metrics()), tmp_path / "parts"
    )
    assert Copier.made == before + 3
    assert resumed.mean == whole.mean
    first, second = (
        json.loads((tmp_path / f / "results.json").read_text()) for f in ("whole", "parts")
    )
    assert without_timings(first) == without_timings(second)
    assert (tmp_path / "whole/results.csv").read_bytes() == (
        tmp_path / "parts/results.csv"
    ).read_bytes()
    assert without_timings(first) != first
    loaded = EvaluationResult.load(tmp_path / "parts" / "results.json")
    assert loaded == resumed


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    evaluate(None, three(), Evaluation(Sparse(hw=HW), Metrics()), tmp_path)
    with pytest.raises(InputError, match=r"differs in protocol"):
        evaluate(None, three(), Evaluation(Sparse(hw=(40, 40)), Metrics()), tmp_path)
    with pytest.raises(InputError, match=r"differs in model"):
        evaluate(Method(Copier, INFO), three(), Evaluation(Sparse(hw=HW), Metrics()), tmp_path)


def test_unreadable_scene_is_missing_not_averaged_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = three()
    clips.broken.add("b/c")
    result = evaluate(None, clips, Evaluation(Sparse(hw=HW), Metrics()), tmp_path)
    assert [s.id for s in result.scenes] == ["a", "..d"]
    assert [(m.id, m.reason) for m in result.missing] == [
        ("b/c", "b/c.json cannot be read; check the path.")
    ]
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["scenes_counted"] == {"expected": 3, "scored": 2}
    assert stored["missing"][0]["id"] == "b/c"
    print_table(result)
    shown = capsys.readouterr().out
    assert "2 of 3 scenes" in shown
    assert "missing b/c" in shown
    clips.broken.clear()  # repaired: the next run fills the gap
    assert evaluate(None, clips, Evaluation(Sparse(hw=HW), Metrics()), tmp_path).missing == ()
    clips.broken.update(clips.ids)
    with pytest.raises(InputError, match="none of 3 clips could be scored"):
        evaluate(None, clips, Evaluation(Sparse(hw=HW), Metrics()), tmp_path / "none")


def test_diverged_or_misshapen_renderings_are_missing(tmp_path: Path) -> None:
    class Broken(Copier):
        def render(self, views: Views) -> Rendering:
            rgb = super().render(views).rgb
            return Rendering(rgb * torch.nan if views.time[0] < 0.05 else rgb[:1])

    clips = Clips({"a": moving_clip("a", 20), "b": moving_clip("b", 60)})
    with pytest.raises(InputError, match="diverged"):
        evaluate(
            Method(Broken, INFO), clips, Evaluation(Sparse(hw=HW), Metrics()), tmp_path, ids=["a"]
        )
    with pytest.raises(InputError, match="rendered rgb of shape"):
        evaluate(
            Method(Broken, INFO), clips, Evaluation(Sparse(hw=HW), Metrics()), tmp_path, ids=["b"]
        )


def test_plans_from_a_file_and_from_the_clip(tmp_path: Path) -> None:
    plans = {"a": IndexPlan((0, 10, 19), (4, 5))}
    result = evaluate(
        None, three(), Evaluation(Sparse(hw=HW), Metrics(), plans=plans), tmp_path / "1", ids=["a"]
    )
    assert result.scenes[0].target_index == (4, 5)
    with pytest.raises(InputError, match="no entry for clip 'b/c'"):
        evaluate(None, three(), Evaluation(Sparse(hw=HW), Metrics(), plans=plans), tmp_path / "2")
    far = {"a": IndexPlan((0, 99), (4,))}
    with pytest.raises(InputError, match="names frame 99"):
        evaluate(
            None,
            three(),
            Evaluation(Sparse(hw=HW), Metrics(), plans=far),
            tmp_path / "3",
            ids=["a"],
        )
    clips = Clips({"a": moving_clip("a", 20, plans["a"])})
    given = evaluate(None, clips, Evaluation(Given(hw=HW), Metrics()), tmp_path / "4")
    assert given.scenes[0].scores == result.scenes[0].scores


def test_csv_and_report(tmp_path: Path, shared_data: Path) -> None:
    from fsm.evaluate.lpips import LPIPS

    metrics = Metrics(LPIPS.load("squeeze", shared_data / "lpips"))
    info = ModelInfo("my_model <b>", "0" * 16, "cpu", "float32")
    result = evaluate(Method(Copier, info), three(), Evaluation(Sparse(hw=HW), metrics), tmp_path)
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    images = [line for line in lines if line["scope"] == "frame" and line["row"] == "flow"]
    assert len(images) == sum(len(s.target_index) for s in result.scenes)
    (mean,) = [line for line in lines if line["scope"] == "mean" and line["row"] == "flow"]
    assert float(mean["lpips"]) == result.mean["flow"].lpips

    page = write_report(result, tmp_path).read_text()
    # scenes, pictures, truth + rows + error
    assert page.count("data:image/png;base64,") == 3 * 3 * (1 + 4 + 1)
    assert "my_model &lt;b&gt;" in page
    assert "<b>&lt;" not in page
    assert 'src="http' not in page
    assert "squeeze trunk" in page
    assert (tmp_path / "contact_sheet.png").is_file()
    assert latex_row(result).startswith(r"my\_model <b> & ")
    best = best_rows(result.mean)
    top = max(score.psnr for score in result.mean.values())
    assert rf" & \textbf{{{top:.2f}}} & " in latex_row(result, best["psnr"][0])


def test_best_rows_knows_directions_and_ties() -> None:
    from fsm.evaluate.metrics import ImageScore

    mean = {"x": ImageScore(20.001, 0.5, 0.2, 0.4), "y": ImageScore(20.004, 0.6, 0.3)}
    best = best_rows(mean)
    assert {m: best[m] for m in ("psnr", "ssim", "lpips", "depth", "psnr_moving")} == {
        "psnr": ("x", "y"),
        "ssim": ("y",),
        "lpips": ("x",),
        "depth": (),
        "psnr_moving": (),
    }
    unmeasured = {"x": mean_score((ImageScore(1.0, 1.0, None),))}
    assert best_rows(unmeasured)["lpips"] == ()


def test_pictures_survive_the_disk(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 9, 7)) / 255
    save_pictures(tmp_path / "p", [3, 12], {"truth": images})
    assert torch.equal(load_pictures(tmp_path / "p", [12, 3], "truth"), images[[1, 0]])
    with pytest.raises(InputError, match=r"000004-truth\.png is missing"):
        load_pictures(tmp_path / "p", [4], "truth")


def test_contact_sheet_places_pictures() -> None:
    """Every picture stands in its place, enlarged by whole pixels; labels leave ink in the strips
    above.
    """
    rows = {"ours": torch.rand(2, 3, 64, 48), "truth": torch.rand(2, 3, 64, 48)}
    sheet = contact_sheet(rows, ["left", "right"])
    zoom = 3
    assert sheet.shape == (22 + 2 * (22 + 64 * zoom) + 4, 4 + 2 * (48 * zoom + 4), 3)
    wanted = (rows["truth"][1] * 255).round().byte().permute(1, 2, 0).numpy()
    y, x = 22 + 22 + 64 * zoom + 22, 4 + 48 * zoom + 4
    assert np.array_equal(sheet[y : y + 64 * zoom : zoom, x : x + 48 * zoom : zoom], wanted)
    assert (sheet[22:44] < 128).any()
    with pytest.raises(InputError, match="rows of one shape"):
        contact_sheet({"a": torch.rand(1, 3, 8, 8), "b": torch.rand(2, 3, 8, 8)})


def test_error_map_grows_with_the_error() -> None:
    truth = torch.zeros(1, 3, 4, 4)
    brightness = [error_map(truth + e, truth).sum().item() for e in (0.0, 0.05, 0.15, 0.25)]
    assert brightness == sorted(brightness)
    assert len(set(brightness)) == 4
    assert error_map(truth + 0.25, truth).equal(error_map(truth + 0.9, truth))


def test_slug_is_safe_and_unique() -> None:
    ids = ["a", "a/b", "a_b", "../x", "-q", ".hidden", "é", "x" * 300]
    names = [slug(id) for id in ids]
    assert len(set(names)) == len(ids)
    assert all("/" not in n and n[0] not in ".-" and len(n) < 120 for n in names)
    assert slug("8OQSqypY6o8_602869536") == "8OQSqypY6o8_602869536"
