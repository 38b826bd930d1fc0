"""The dataparser on real clips: the same rays, pixels and moments as the clip's own."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fsm.datasets.open import open_clip
from fsm.renderers.stereo.sources import camera_rays

dataparser = pytest.importorskip("nerfstudio_fsm.dataparser")

SHARED = Path(os.environ.get("FSM_SHARED_DATA", "shared/data"))


def test_the_entry_point_names_the_specification() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["nerfstudio.dataparser_configs"]
    assert points == {"fsm-data": "nerfstudio_fsm.dataparser:specification"}
    assert isinstance(dataparser.specification.config, dataparser.FSMDataParserConfig)


# nerfstudio 1.1.5 indexes by lists, of which torch 2.13 warns
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("name", ["demo", "fox_270x480", "dnerf_mutant_256"])
def test_rays_pixels_and_moments_are_those_of_the_clip(tmp_path: Path, name: str) -> None:
    data = name if name == "demo" else str(SHARED / name)
    if name != "demo" and not Path(data).exists():
        pytest.skip(f"{data} is not there")
    parser = dataparser.FSMDataParserConfig(data=Path(data), pictures=tmp_path).setup()
    splits = dict(zip(("train", "test"), parser.frames(), strict=True))
    for split, (clip, index) in splits.items():
        outputs = parser.get_dataparser_outputs(split)
        assert len(outputs.image_filenames) == len(outputs.cameras) == len(index)
        i = len(index) // 2
        view = clip.views([index[i]])
        assert view.rgb is not None
        pixels = np.asarray(Image.open(outputs.image_filenames[i]))
        assert np.array_equal(pixels, (view.rgb[0] * 255).round().byte().permute(1, 2, 0).numpy())
        rays = outputs.cameras.generate_rays(i, disable_distortion=True)
        local = torch.nn.functional.normalize(camera_rays(view.batched())[0, 0], dim=0)
        ours = torch.einsum("ij,jhw->hwi", view.c2w[0, :3, :3], local)
        turn, move = outputs.dataparser_transform[:, :3], outputs.dataparser_transform[:, 3]
        assert torch.allclose(rays.directions, ours @ turn.T, atol=1e-5)
        centre = (turn @ view.c2w[0, :3, 3] + move) * outputs.dataparser_scale
        assert torch.allclose(rays.origins[0, 0], centre, atol=1e-4)
        first, last = outputs.metadata["seconds"]
        assert outputs.cameras.times is not None
        back = first + float(outputs.cameras.times[i]) * (last - first)
        assert back == pytest.approx(float(view.time[0]), abs=1e-4)
    train = parser.get_dataparser_outputs("train").cameras
    assert float(train.camera_to_worlds[:, :, 3].abs().max()) == pytest.approx(1.0, abs=1e-5)


def test_held_out_frames_are_not_trained_on(tmp_path: Path) -> None:
    parser = dataparser.FSMDataParserConfig(
        data=Path("demo"), pictures=tmp_path, eval_interval=5
    ).setup()
    (clip, train), (_, held_out) = parser.frames()
    assert held_out == list(range(0, len(clip), 5))
    assert sorted(train + held_out) == list(range(len(open_clip("demo"))))
