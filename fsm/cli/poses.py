"""``fsm poses``: cameras for a film or photos that have none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fsm.cli.common import check_output, flag
from fsm.errors import InputError


@dataclass(frozen=True)
class Poses:
    """Find the cameras of a film, or of a folder of photos, and write a clip."""

    source: tyro.conf.Positional[Annotated[Path, flag("FILM|FOLDER", "")]]
    """Film (mp4, mov, mkv, webm, avi), or folder of photos of one moment."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/clip")
    """Where the clip goes: pictures, clip.json, and COLMAP's model; an older clip is replaced."""
    frames: Annotated[int, flag("N")] = 120
    """Frames taken of a film, at most: sharp ones, evenly spread over its motion."""
    cameras: Annotated[Literal["one", "folder"], flag("WHICH")] = "one"
    """one: a single camera took all photos; folder: those of each folder in it are one camera's."""
    fps: Annotated[float | None, flag("RATE", "photos of one moment")] = None
    """The folder holds frames of a film at this rate, in the order of their names."""
    masks: Annotated[Path | None, flag("FOLDER", "none")] = None
    """A mask NAME.png for each picture NAME, black where nothing counts; of a film by number."""
    keep_moving: bool = False
    """Do not look for what moves; solve once."""
    metres: Annotated[tuple[str, str, float] | None, flag("A B D", "unknown scale")] = None
    """The cameras of pictures A and B (frame numbers, or names) stand D metres apart."""

    def run(self) -> None:
        """Find cameras and say how well."""
        from fsm.poses import PoseOptions, find_poses

        check_clip_folder(self.output)
        options = PoseOptions(
            self.frames,
            self.cameras == "folder",
            self.fps,
            self.masks,
            not self.keep_moving,
            self.metres,
        )
        for line in find_poses(self.source, self.output, options).sentences():
            print(line)
        print(f"clip in {self.output}")


def with_cameras(source: str, output: Path) -> str:
    """``source``; where it is a film or a folder of photos without cameras, a clip of it beside
    ``output``, made now or before from the same files.
    """
    from fsm.datasets.open import without_cameras
    from fsm.poses import find_poses
    from fsm.poses.write import made_from

    if not without_cameras(Path(source)):
        return source
    folder = output.with_name(f"{output.name}-clip")
    if made_from(folder, Path(source)):
        print(f"{source} has no cameras; those found before are in {folder}")
        return str(folder)
    print(f"{source} has no cameras; looking for them (fsm poses says how)", flush=True)
    check_clip_folder(folder)
    for line in find_poses(Path(source), folder).sentences():
        print(line)
    print(f"clip with cameras in {folder}")
    return str(folder)


def check_clip_folder(path: Path) -> None:
    """Refuse to replace a folder that ``fsm poses`` did not make, and places that cannot be
    written to.
    """
    made = (path / "clip.json").is_file() and (path / "sparse").is_dir()
    if path.exists() and not made and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            f"output is {path}, which exists and is no clip of fsm poses; choose another folder."
        )
    check_output(path)
