"""Runs whose work several processes share, and how to compare what they draw with the curve of
one.
"""

import dataclasses
from pathlib import Path

import pytest
import yaml

from fsm.config import to_dict
from fsm.train.config import TrainConfig
from tests.train.small_runs import CONFIG, changed, read_log, stage

# Without TensorBoard, as in the other tests of training; prints the hash of what the process ended
# with.
WORKER = """
import sys
from pathlib import Path
sys.modules["torch.utils.tensorboard"] = None
from fsm.checkpoint import weights_hash
from fsm.train.config import load_preset
from fsm.train.loop import train
steps = int(sys.argv[3])
print(weights_hash(train(load_preset(sys.argv[1]), Path(sys.argv[2]), stop_after=steps)))
"""


def shared(config: TrainConfig = CONFIG) -> TrainConfig:
    """A run whose batches two processes can share out, with random chunks and a second stage.

    At a learning rate of 1e-3, whatever ``config`` says: Newton-Schulz amplifies rounding, and at
    the other tests' two orders of summation part after four steps.
    """
    config = changed(config, lr=1e-3)
    data = dataclasses.replace(config.data, batch=2, chunks=(1, 2))
    return dataclasses.replace(config, data=data, stages=(stage(2, hw=(16, 16), batch=4),))


def long(config: TrainConfig = CONFIG, batch: int = 1, **model) -> TrainConfig:
    """Two layers, and inputs of up to three chunks, the last of which has a single view; at the
    learning rate of ``shared``.
    """
    encoder = dataclasses.replace(config.model.encoder, layers=2)
    data = dataclasses.replace(config.data, batch=batch, inputs=(3, 5), window=(8, 10))
    config = dataclasses.replace(changed(config, lr=1e-3), data=data)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, encoder=encoder, **model)
    )


def worker(config: TrainConfig, out: Path, steps: int) -> list[str]:
    """What a process of a group runs: so many steps of ``config`` in ``out``."""
    preset = out.parent / f"{out.name}.yaml"
    preset.write_text(yaml.safe_dump(to_dict(config)))
    return ["-c", WORKER, str(preset), str(out), str(steps)]


def assert_same_curve(a: Path, b: Path) -> None:
    """The loss to 1e-4; the gradients' norm to 1e-3, since Adam's first steps turn rounding of tiny
    entries into signs.
    """
    one, other = read_log(a), read_log(b)
    assert [e.keys() for e in one] == [e.keys() for e in other]
    for x, y in zip(one, other, strict=True):
        assert x.pop("grad_norm") == pytest.approx(y.pop("grad_norm"), rel=1e-3)
        assert x == pytest.approx(y, rel=1e-4)
