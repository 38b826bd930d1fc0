"""Which frames are chosen, what EXIF states, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsm.errors import InputError
from fsm.poses.pictures import choose, from_photos, stated_focal


def photo(path: Path, size: tuple[int, int] = (40, 30), exif: Image.Exif | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8))
    image.save(path, exif=exif if exif is not None else Image.Exif())


def test_frames_lie_evenly_in_motion_and_are_the_sharpest_there():
    motion = np.where(np.arange(100) < 50, 0.0, 10.0)  # still, then fast
    sharpness = np.ones(100)
    sharpness[77] = 5.0
    chosen = choose(sharpness, motion, 11)
    assert chosen == sorted(set(chosen))
    assert sum(i >= 50 for i in chosen) >= 9
    assert 77 in chosen


def test_few_frames_are_all_taken():
    assert choose(np.ones(5), np.zeros(5), 8) == [0, 1, 2, 3, 4]


def test_the_equivalent_focal_length_becomes_pixels(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 27
    photo(tmp_path / "a.jpg", (400, 300), exif)
    with Image.open(tmp_path / "a.jpg") as image:
        assert stated_focal(image) == pytest.approx(27 / 36 * 400)
    photo(tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert stated_focal(image) is None


def test_photos_are_turned_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(tmp_path / "in" / name, (40, 30), exif)
    found = from_photos(tmp_path / "in", tmp_path / "out", separate=False)
    assert [p.name for p in found.items] == ["a.jpg", "b.jpg", "c.jpg"]
    with Image.open(tmp_path / "out" / "a.jpg") as image:
        assert image.size == (30, 40)


def test_folders_are_cameras_where_asked(tmp_path: Path):
    for name in ("l/1.png", "l/2.png", "r/1.png", "r/2.png"):
        photo(tmp_path / "in" / name, (40, 30) if name[0] == "l" else (20, 30))
    found = from_photos(tmp_path / "in", tmp_path / "out", separate=True)
    assert {k: len(v) for k, v in found.cameras.items()} == {"l": 2, "r": 2}
    with pytest.raises(InputError, match=r"--cameras folder"):
        from_photos(tmp_path / "in", tmp_path / "other", separate=False)


def test_too_few_photos_and_files_that_are_none_are_refused(tmp_path: Path):
    photo(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match="1 photos"):
        from_photos(tmp_path / "in", tmp_path / "out", separate=False)
    for name in ("b.png", "c.png"):
        (tmp_path / "in" / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png cannot be read"):
        from_photos(tmp_path / "in", tmp_path / "out", separate=False)
