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

if TYPE_CHECKING:
    from fsm.evaluate.lpips import LPIPS


@dataclass(frozen=True)
class Eval:
    """Score a model on clips: PSNR, SSIM, LPIPS, beside trivial baselines."""

    clips: tyro.conf.Positional[Annotated[str, flag("CLIPS", "")]]
    """Clip list, file or folder, or `demo`, `world:SEED`, `world:1000-1015`."""
    protocol: Annotated[str, flag("NAME")] = "dense"
    """dense (32 random inputs, 8 targets), sparse (8 even, 7 between), novel (beside the path),
    rig (cameras held out), given (the clip's split), spread, consecutive or stream
    (docs/evaluation.md).
    """
    model: Annotated[str, flag("MODEL")] = "fsm-tiny"
    """Bundled name, folder, hub name, or `none` for the baselines alone."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/eval")
    """Where results.json, results.csv, report.html and plans.json go; an interrupted run resumes
    there.
    """
    size: Annotated[str, flag("WxH")] = "128x128"
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
        from fsm.checkpoint import weights_hash
        from fsm.datasets.open import open_dataset
        from fsm.evaluate.metrics import Metrics
        from fsm.evaluate.protocols import load_plans, protocol
        from fsm.evaluate.report import print_table, write_report
        from fsm.evaluate.results import ModelInfo
        from fsm.evaluate.run import Evaluation, evaluate
        from fsm.evaluate.scoring import Method
        from fsm.model import FSM
        from fsm.open_scene import with_backend
        from fsm.shards import find_shard

        shard = find_shard(self.shard)
        check_output(self.output)
        chosen = protocol(self.protocol, **self._options())
        dataset = open_dataset(self.clips, static=self.static)
        device = choose_device(self.device)
        check_backend(self.backend, device)
        model = None if self.model == "none" else FSM.from_pretrained(self.model, device=device)
        method = None
        if model is not None:
            kind = device.split(":")[0]
            info = ModelInfo(self.model, weights_hash(model), kind, "float32")
            method = Method(
                lambda inputs: with_backend(model.reconstruct(inputs), self.backend), info
            )
        evaluation = Evaluation(
            chosen,
            Metrics(find_lpips(self.lpips)),
            self.seed,
            None if self.plans is None else load_plans(self.plans),
        )
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

    def _options(self) -> dict[str, Any]:
        """What the flags say about the protocol."""
        from fsm.evaluate.rigs import named

        options: dict[str, Any] = {"hw": list(parse_size(self.size, (128, 128)))}
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
