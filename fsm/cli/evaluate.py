"""``fsm eval``: a protocol over a data set, with the trivial baselines on the same frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fsm.cli.common import (
    Backend,
    check_backend,
    check_output,
    choose_device,
    flag,
    parse_size,
)
from fsm.errors import InputError

if TYPE_CHECKING:
    from fsm.datasets.base import Clip, ClipDataset, IndexPlan
    from fsm.evaluate.lpips import LPIPS
    from fsm.evaluate.scoring import Method

SIZE = (128, 128)
"""Height and width of inputs and targets, where no flag and no scene says otherwise."""


@dataclass(frozen=True)
class Eval:
    """Score a model on clips: PSNR, SSIM, LPIPS, beside trivial baselines."""

    clips: tyro.conf.Positional[Annotated[str, flag("CLIPS", "")]]
    """Clip list, file or folder, or `demo`, `world:SEED`, `world:1000-1015`."""
    protocol: Annotated[str | None, flag("NAME", "dense")] = None
    """dense (32 random inputs, 8 targets), sparse (8 even, 7 between), novel (beside the path),
    rig (cameras held out), given (the clip's split), spread, consecutive or stream
    (docs/evaluation.md).
    """
    model: Annotated[str, flag("MODEL")] = "fsm-tiny"
    """Bundled name, folder, hub name, or `none` for the baselines alone."""
    scene: Annotated[Path | None, flag("SCENE", "none")] = None
    """Score this scene of one clip instead of a model: on frames that it has not seen, unless a
    protocol is named.
    """
    images: Annotated[Path | None, flag("FOLDER", "none")] = None
    """Score pictures, named by the clip's frame numbers, instead of a model."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/eval")
    """Where results.json, results.csv, report.html and plans.json go; an interrupted run resumes
    there.
    """
    size: Annotated[str | None, flag("WxH", "128x128, or the scene's")] = None
    """Size of inputs and targets."""
    lpips: Literal["auto", "none", "alex", "squeeze", "vgg"] = "auto"
    """Perceptual network; auto takes the first of vgg, alex, squeeze whose weights are found."""
    inputs: Annotated[int | None, flag("N", "the protocol's")] = None
    """How many input frames."""
    hold_cameras: Annotated[str | None, flag("LIST", "every 4th")] = None
    """Cameras that the protocol rig holds out, by name or by place from 0: 1,5."""
    plans: Annotated[Path | None, flag("FILE", "the protocol's")] = None
    """Use the frames of an earlier run's plans.json."""
    seed: Annotated[int, flag("N")] = 0
    """Seed of random plans."""
    ids: Annotated[tuple[str, ...], flag("NAME ...", "all")] = ()
    """Only these clips."""
    static: bool = False
    """Take all frames for one moment: nothing moves, and there is no clock."""
    shard: Annotated[str | None, flag("I/N", "torchrun's or Slurm's")] = None
    """Do only part I of N of the clips, into the folder that all parts share."""
    pictures: Annotated[int, flag("N")] = 3
    """Targets of each scene kept as pictures."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""
    backend: Backend = "auto"
    """What rasterises Gaussians: gsplat (CUDA), cpu, plain (slow); auto: gsplat where it works."""

    def run(self) -> int:
        """Evaluate, print the table, write the report; status 1 if a clip could not be scored.

        Of several processes the one that finds all clips done does so; under torchrun an earlier
        status 1 would end the others.
        """
        from fsm.datasets.open import open_dataset
        from fsm.evaluate.metrics import Metrics
        from fsm.evaluate.protocols import load_plans, protocol
        from fsm.evaluate.report import print_table, write_report
        from fsm.evaluate.run import Evaluation, evaluate
        from fsm.shards import find_shard

        shard = find_shard(self.shard)
        check_output(self.output)
        dataset = open_dataset(self.clips, static=self.static)
        device = choose_device(self.device)
        check_backend(self.backend, device)
        plans = None if self.plans is None else load_plans(self.plans)
        method, size, own_plans = self._method(dataset, device)
        chosen = protocol(self.protocol or "dense", **self._options(size))
        metrics = Metrics(find_lpips(self.lpips))
        evaluation = Evaluation(chosen, metrics, self.seed, plans or own_plans)
        result = evaluate(
            method,
            dataset,
            evaluation,
            self.output,
            ids=self.ids or None,
            pictures=self.pictures,
            shard=shard,
        )
        if result.pending:  # whoever comes last reports on all
            done = len(result.scenes) + len(result.missing) - len(result.pending)
            print(
                f"shard {shard} done; {done} of {done + len(result.pending)} clips so far "
                f"in {self.output}"
            )
            return 0
        print_table(result)
        print(f"report in {write_report(result, self.output)}")
        return 1 if result.missing else 0

    def _method(
        self, dataset: "ClipDataset", device: str
    ) -> tuple["Method | None", tuple[int, int], dict[str, "IndexPlan"] | None]:
        """What is scored, the size it is scored at unless a flag says otherwise, and for a scene
        the frames that it has seen and others.
        """
        from fsm.checkpoint import weights_hash
        from fsm.evaluate.made_before import pictures_method, scene_method, unseen_plan
        from fsm.evaluate.results import ModelInfo
        from fsm.evaluate.scoring import Method
        from fsm.model import FSM
        from fsm.open_scene import open_scene, with_backend

        if self.scene is None and self.images is None:
            if self.model == "none":
                return None, SIZE, None
            model = FSM.from_pretrained(self.model, device=device)
            info = ModelInfo(self.model, weights_hash(model), device.split(":")[0], "float32")
            return (
                Method(lambda v: with_backend(model.reconstruct(v), self.backend), info),
                SIZE,
                None,
            )
        clip = self._one_clip(dataset)
        if self.scene is None:
            assert self.images is not None
            return pictures_method(self.images), SIZE, None
        scene = open_scene(self.scene, device, self.backend)
        plans = None
        if self.protocol is None and self.plans is None:
            plans = {clip.id: unseen_plan(clip, scene.frames_seen, self.scene)}
        return scene_method(scene, self.scene, device.split(":")[0]), scene.hw, plans

    def _one_clip(self, dataset: "ClipDataset") -> "Clip":
        """The clip that a scene or pictures are of."""
        if self.scene is not None and self.images is not None:
            raise InputError("--scene and --images cannot be scored at once; give one of them.")
        names = self.ids or dataset.ids
        if len(names) != 1:
            raise InputError(
                f"{self.clips} holds {len(names)} clips; name the one that was rendered with --ids."
            )
        return dataset.clip(names[0])

    def _options(self, size: tuple[int, int]) -> dict[str, Any]:
        """What the flags say about the protocol."""
        from fsm.evaluate.rigs import named

        options: dict[str, Any] = {"hw": list(parse_size(self.size, size))}
        if self.inputs is not None:
            options["inputs"] = self.inputs
        if self.hold_cameras is not None:
            options["hold_cameras"] = list(named(self.hold_cameras))
        return options


def find_lpips(name: Literal["auto", "none", "alex", "squeeze", "vgg"]) -> "LPIPS | None":
    """The LPIPS network asked for; with ``auto`` the first whose weights are on this machine, or
    None.
    """
    from fsm.evaluate.lpips import LPIPS, Net, available

    nets: tuple[Net, ...] = ("vgg", "alex", "squeeze")
    if name == "auto":
        return next((LPIPS.load(net) for net in nets if available(net)), None)
    return next((LPIPS.load(net) for net in nets if net == name), None)
