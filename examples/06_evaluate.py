"""Evaluate a model

Score a model on a data set, beside three trivial baselines on the same frames.

* A protocol decides which frames are inputs and which are targets. `novel` asks for cameras
  beside the path, so that no input frame can simply be copied.
* The baselines copy the nearest input, blend two neighbours, or blend them along optical flow.
* Results, pictures and the chosen frames stay in the output folder. A run resumes there.
"""

from pathlib import Path

import tyro

from fsm import FSM
from fsm.checkpoint import weights_hash
from fsm.datasets.open import open_dataset
from fsm.evaluate.metrics import Metrics
from fsm.evaluate.protocols import protocol
from fsm.evaluate.report import print_table
from fsm.evaluate.results import EvaluationResult, ModelInfo
from fsm.evaluate.run import evaluate


def main(
    clips: str = "world:1001-1002",
    name: str = "novel",
    size: int = 128,
    out: Path = Path("outputs/06"),
) -> EvaluationResult:
    """Evaluate CLIPS by the protocol NAME and return the result."""
    model = FSM.from_pretrained("fsm-tiny")
    result = evaluate(
        model.reconstruct,
        open_dataset(clips),
        protocol(name, hw=[size, size]),
        out=out,
        metrics=Metrics(),
        model=ModelInfo("fsm-tiny", weights_hash(model), "cpu", "float32"),
    )
    print_table(result)
    return result


if __name__ == "__main__":
    tyro.cli(main)
