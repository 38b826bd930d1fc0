"""``fsm export``: Gaussians to the files other tools read; also from one splat file to another."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fsm.cli.common import check_output, chosen_layer, flag, save_settings
from fsm.errors import InputError
from fsm.files import atomic_file
from fsm.runs import tracked

if TYPE_CHECKING:
    from fsm.renderers.gaussians.scene import GaussianScene
    from fsm.renderers.splat_files import SplatTable
    from fsm.renderers.splat_files.scene_tables import SceneTables

SUFFIXES = {
    ".ply": "ply",
    ".splat": "splat",
    ".spz": "spz",
    ".sog": "sog",
    ".ksplat": "ksplat",
    ".safetensors": "safetensors",
    ".4dgs": "4dgs",
    ".glb": "glb",
    ".usd": "usd",
    ".usda": "usd",
    ".usdc": "usd",
    ".html": "html",
    ".viser": "viser",
}
RECORDINGS = ("html", "viser")
# written under a suffix that asks for another format where none is said
UNDER = {"compressed-ply": ".ply", "spz-4": ".spz"}
# formats that say which axis is up, and those that they can say
UPS = {"4dgs": ("y", "z"), "glb": ("y",), "usd": ("y", "z")}
SEQUENCE_FPS = 30.0


@dataclass(frozen=True)
class Export:
    """Write a scene's Gaussians as .ply, .splat, .spz, .sog, .ksplat, .glb, or with their motion as
    a PLY sequence, .safetensors, .4dgs, .usd or a web page that plays.
    """

    scene: tyro.conf.Positional[Annotated[Path, flag("SCENE", "")]]
    """Scene folder with Gaussians, or a .ply, .splat, .spz, .sog or .ksplat file to convert."""
    output: Annotated[Path, flag("PATH", short="-o")] = Path("outputs/scene.ply")
    """File to write; a folder for a PLY sequence. X.compressed.ply is compressed."""
    format: Annotated[
        Literal[
            "ply",
            "compressed-ply",
            "ply-sequence",
            "splat",
            "spz",
            "spz-4",
            "sog",
            "ksplat",
            "safetensors",
            "4dgs",
            "glb",
            "usd",
            "html",
            "viser",
        ]
        | None,
        flag("FORMAT", "by the output's suffix"),
    ] = None
    """What to write; a path without suffix is a PLY sequence."""
    time: Annotated[float | None, flag("SECONDS", "the clip's middle")] = None
    """Moment to write, in seconds of the clip."""
    fps: Annotated[float | None, flag("RATE", "30; a page 10")] = None
    """Frames per second of a PLY sequence or .usd; moments per second of a page."""
    up: Annotated[
        Literal["-y", "y", "z", "-z", "x", "-x"] | None,
        flag("AXIS", "-y; y in .4dgs, .glb and .usd; in a page the cameras'"),
    ] = None
    """Axis that points up in the file: y for viewers that show the scene upside down."""
    min_opacity: Annotated[float, flag("ALPHA")] = 0.0
    """Leave out Gaussians less opaque than this (at the moment written)."""
    layer: Literal["static", "moving", "all"] = "all"
    """Gaussians that stand at all times, the others, or all."""
    drop_invalid: bool = False
    """Leave out Gaussians of a splat file that are NaN or infinite, instead of refusing it."""

    def run(self) -> None:
        """Write the file or folder and say what is in it."""
        kind = self._kind()
        if not 0.0 <= self.min_opacity <= 1.0:
            raise InputError(f"min-opacity is {self.min_opacity}; choose a number from 0 to 1.")
        self._check_place(kind)
        if self._is_file and self.layer != "all":
            raise InputError(f"{self.scene} is a splat file without layers; leave --layer out.")
        if kind in RECORDINGS:
            said, resolved = self._record(kind)
        else:
            said, seconds = self._convert(kind) if self._is_file else self._from_scene(kind)
            resolved = {"time": seconds}
        if kind != "ply-sequence":
            size = self.output.stat().st_size
            settings = self.output.with_name(f"{self.output.name}.yaml")
            save_settings(settings, self, format=kind, **resolved)
            said += f", {size / 1e6:.2f} MB"
        print(f"{said}; in {self.output}")

    @property
    def _is_file(self) -> bool:
        moving = self.scene.name == "scene.json" or self.scene.suffix.lower() == ".safetensors"
        return self.scene.is_file() and not moving

    def _kind(self) -> str:
        from fsm.renderers.splat_files import format_of

        suffix = self.output.suffix.lower()
        compressed = format_of(self.output) == "compressed-ply"
        if self.format is not None:
            expected = UNDER.get(self.format, "")
            known = SUFFIXES.get(suffix, self.format)
            other = compressed and self.format != "compressed-ply"
            if (known != self.format and suffix != expected) or other:
                raise InputError(
                    f"output is {self.output} but format is {self.format}; leave one of them out."
                )
            return self.format
        if suffix == "":
            return "ply-sequence"
        if suffix not in SUFFIXES:
            raise InputError(
                f"output is {self.output}; end it in {', '.join(SUFFIXES)}, or say --format."
            )
        return "compressed-ply" if compressed else SUFFIXES[suffix]

    def _check_place(self, kind: str) -> None:
        if kind == "ply-sequence":
            if self.time is not None:
                raise InputError(
                    "--time is for a single moment, a PLY sequence has all; leave it out."
                )
            if not self.output.exists() or self.output.is_dir():
                check_output(self.output)
        elif self.output.is_dir():
            raise InputError(f"output is {self.output}, a folder; name a file for {kind}.")
        else:
            check_output(self.output.parent)
        if self.output.exists() and self.scene.exists() and self.output.samefile(self.scene):
            raise InputError(f"output is {self.output}, the scene itself; choose another name.")

    def _record(self, kind: str) -> tuple[str, dict[str, Any]]:
        """All moments for a browser: what was written, and the settings that were left open."""
        from fsm.renderers.splat_files import open_splats
        from fsm.viewer.recording import FPS, record

        if self.time is not None:
            raise InputError(
                f"--time is for a single moment, a {kind} recording has all; leave it out."
            )
        scene = (
            open_splats(self.scene, drop_invalid=self.drop_invalid)
            if self._is_file
            else self._gaussians()
        )
        fps = FPS if self.fps is None else self.fps
        recording = record(
            scene,
            "html" if kind == "html" else "viser",
            fps=fps,
            min_opacity=self.min_opacity,
            up=self.up,
            name=self.scene.resolve().name,
        )
        with atomic_file(self.output) as temporary:
            temporary.write_bytes(recording.content)
        moments = len(recording.moments)
        pace = f"{moments} moments at {fps:g} a second" if moments > 1 else "1 moment"
        most = recording.still + recording.moving
        return f"{pace} of up to {most} Gaussians, {recording.still} of them at rest", {"fps": fps}

    def _convert(self, kind: str) -> tuple[str, None]:
        """From one splat file to another; values that both formats hold are carried over to the
        bit.
        """
        from fsm.renderers.splat_files import read_table, up_rotation

        if kind in ("ply-sequence", "safetensors", "4dgs", "usd"):
            raise InputError(
                f"{self.scene} is a splat file, which does not move; choose ply, splat, "
                "spz, sog, ksplat, glb or html."
            )
        if self.time is not None:
            raise InputError(
                f"{self.scene} is a splat file, which does not move; leave --time out."
            )
        table = self._pruned(
            read_table(self.scene, self.drop_invalid).rotated(up_rotation(self._up(kind)))
        )
        self._write(table, kind)
        return f"{len(table)} Gaussians of degree {table.sh_degree}", None

    def _from_scene(self, kind: str) -> tuple[str, float | None]:
        """What was written, and its moment where it has one."""
        from fsm.renderers.splat_files import up_rotation
        from fsm.renderers.splat_files.scene_tables import SceneTables

        scene = self._gaussians()
        tables = SceneTables.of(scene, up_rotation(self._up(kind)))
        if kind == "ply-sequence":
            return self._sequence(scene, tables), None
        if kind in ("safetensors", "4dgs", "usd"):
            return self._whole(tables, kind), None
        seconds = self._moment(scene)
        table = self._pruned(tables.at(seconds))
        if len(table) == 0:
            raise InputError(
                f"{self.scene} has no Gaussians to write at {seconds:.3f} s; choose another moment."
            )
        self._write(table, kind)
        return f"{len(table)} Gaussians of degree {table.sh_degree} at {seconds:.3f} s", seconds

    def _write(self, table: "SplatTable", kind: str) -> None:
        """The Gaussians of one moment."""
        from fsm.renderers.splat_files import write_table
        from fsm.renderers.splat_files.standards import write_glb

        if kind == "glb":
            write_glb(self.output, table)
        else:
            write_table(self.output, table, kind)

    def _whole(self, tables: "SceneTables", kind: str) -> str:
        """All Gaussians and their motion in one file; what was written."""
        from fsm.renderers.splat_files.sequence import write_moving
        from fsm.renderers.splat_files.standards import write_4dgs, write_usd

        if self.time is not None or self.min_opacity > 0:
            raise InputError(
                f"{kind} holds all Gaussians and their motion; leave --time and --min-opacity out."
            )
        if kind == "4dgs":
            write_4dgs(self.output, tables, self._up(kind))
        elif kind == "usd":
            write_usd(self.output, tables, self.fps or SEQUENCE_FPS, self._up(kind))
        else:
            write_moving(self.output, tables)
        return f"{len(tables.quats)} moving Gaussians of degree {tables.moving.sh_degree}"

    def _up(self, kind: str) -> str:
        """The axis that is up in the file."""
        ups = UPS.get(kind)
        if ups is None:
            return self.up or "-y"
        if self.up not in (None, *ups):
            raise InputError(f"up is {self.up}; in {kind} it can be {' or '.join(ups)}.")
        return self.up or ups[0]

    def _gaussians(self) -> "GaussianScene":
        from fsm.open_scene import open_scene
        from fsm.renderers.gaussians.scene import GaussianScene

        if self.drop_invalid:
            raise InputError(
                "--drop-invalid is for splat files; scenes never hold NaN, leave it out."
            )
        scene = open_scene(self.scene)
        if not isinstance(scene, GaussianScene):
            raise InputError(
                f"{self.scene} is a scene memory, whose pictures a network makes: it holds "
                "no Gaussians to export; "
                "reconstruct the clip with `fsm reconstruct CLIP --decoder lrm`."
            )
        return chosen_layer(scene, self.layer, self.scene)

    def _moment(self, scene: "GaussianScene") -> float:
        first, last = float(scene.inputs.time.min()), float(scene.inputs.time.max())
        if self.time is None:
            return (first + last) / 2
        if not first - 1e-3 <= self.time <= last + 1e-3:
            raise InputError(
                f"time is {self.time:g}, outside the clip; choose from {first:.3f} to "
                f"{last:.3f} seconds."
            )
        return min(max(self.time, first), last)

    def _pruned(self, table: "SplatTable") -> "SplatTable":
        return table[table.logits.sigmoid() >= self.min_opacity] if self.min_opacity > 0 else table

    def _sequence(self, scene: "GaussianScene", tables: "SceneTables") -> str:
        from fsm.renderers.splat_files.sequence import frame_times, write_ply_sequence

        fps = SEQUENCE_FPS if self.fps is None else self.fps
        times = frame_times(scene.inputs.time, fps)

        def frames() -> Iterator[tuple[float, "SplatTable"]]:
            for seconds in tracked(times, "exporting", len(times)):
                yield seconds, self._pruned(tables.at(seconds))

        def settings(folder: Path) -> None:
            save_settings(folder / "export.yaml", self, format="ply-sequence", fps=fps)

        counts = write_ply_sequence(self.output, frames(), fps, settings)
        return f"{len(times)} frames at {fps:g} fps of {min(counts)} to {max(counts)} Gaussians"
