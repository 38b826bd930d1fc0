from pathlib import Path

import pytest
import torch

from fsm.datasets.open import DEMO, open_clip, open_dataset
from fsm.errors import InputError
from tests.datasets.contract import check_clip


@pytest.mark.parametrize(
    ("name", "clip"), [("demo", DEMO.replace(":", "-")), ("world:3", "world-3")]
)
def test_the_built_in_clips(name: str, clip: str) -> None:
    assert open_dataset(name).ids == (clip,)
    check_clip(open_clip(name), resized=False)


def test_a_range_of_seeds_is_one_data_set() -> None:
    """Every clip is the one that its seed alone opens; first and last are in."""
    dataset = open_dataset("world:998-1001")
    assert dataset.ids == ("world-998", "world-999", "world-1000", "world-1001")
    assert len(dataset) == 4
    clip, alone = dataset.clip("world-1000"), open_clip("world:1000")
    assert (clip.id, clip.source, clip.cameras.hw) == (alone.id, alone.source, (128, 128))
    assert torch.equal(clip.cameras.c2w, alone.cameras.c2w)
    assert open_dataset("world:2-2").ids == ("world-2",)
    assert open_clip("world:4-5", "world-5").id == "world-5"
    for id in ("world-997", "world-1002", "synthetic-1000", "world-01000", "world-x", ""):
        with pytest.raises(
            InputError, match=r"world:998-1001 has no clip .*; it has world-998, world-999,"
        ):
            dataset.clip(id)
    with pytest.raises(InputError, match="holds 4 clips; name one of them: world-998"):
        open_clip("world:998-1001")


@pytest.mark.parametrize(
    "name", ["world:5-3", "world:-3", "world:3-", "world:1-2-3", "world:1..4", "world:1-x"]
)
def test_what_is_no_range_of_seeds_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"has seed .*; write .*or a range, as in "):
        open_dataset(name)
    with pytest.raises(InputError, match="names 10001 seeds; at most 10000"):
        open_dataset("world:0-10000")


@pytest.mark.parametrize(
    ("name", "clip", "frames"),
    [
        ("stereo4d_256/val.json", "0himhUCBDXo_155055055", 79),
        ("stereo4d_fZcNop_Aenw_88573338", "fZcNop_Aenw_88573338", 199),
        ("stereo4d_fZcNop_Aenw_88573338/fZcNop_Aenw_88573338.jsonl", "fZcNop_Aenw_88573338", 199),
        ("stereo4d_fZcNop_Aenw_88573338/example.json", "fZcNop_Aenw_88573338", 199),
        ("dnerf_mutant_256", "train", 150),
        ("dnerf_mutant_256/transforms_test.json", "transforms_test", 20),
        ("fox_270x480", "fox_270x480", 50),
        ("fox_270x480/transforms.json", "fox_270x480", 50),
    ],
)
def test_real_data_is_recognised(shared_data: Path, name: str, clip: str, frames: int) -> None:
    found = open_clip(shared_data / name, clip_id=clip)
    assert found.id == clip
    assert len(found) == frames
    assert open_clip(shared_data / name, clip_id=clip).cameras.hw == found.cameras.hw


@pytest.mark.parametrize("name", ["nothing", "nothing.mp4", "world:x", "world:-1", "notes.txt"])
def test_what_is_no_clip_is_refused_with_what_would_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    path = name if name.startswith("world") else tmp_path / name
    with pytest.raises(
        InputError, match=r"seed .*; write|FSM clip or list .* D-NeRF .* Stereo4D .*world:SEED"
    ):
        open_clip(path)


@pytest.mark.parametrize(
    ("name", "instead"), [("synthetic", "'world'"), ("synthetic:3-7", "'world:3-7'")]
)
def test_the_removed_world_is_refused_with_the_one_to_use(name: str, instead: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}' is no longer built in; use {instead},"):
        open_dataset(name)


def test_an_empty_folder_and_a_list_without_a_choice_are_refused(
    tmp_path: Path, shared_data: Path
) -> None:
    with pytest.raises(InputError, match="holds no clip; a clip is an FSM clip"):
        open_clip(tmp_path)
    with pytest.raises(
        InputError,
        match=r"stereo4d_256 holds lists of clips \(train.json, val.json, val_moving.json\)",
    ):
        open_clip(shared_data / "stereo4d_256")
    with pytest.raises(InputError, match=r"holds several clips .*, \.\.\."):
        open_clip(shared_data / "stereo4d_256" / "val")
    with pytest.raises(InputError, match="holds 14 clips; name one of them: 0himhUCBDXo"):
        open_clip(shared_data / "stereo4d_256" / "val.json")
    with pytest.raises(InputError, match="has no clip 'x'"):
        open_clip(shared_data / "stereo4d_256" / "val.json", clip_id="x")
