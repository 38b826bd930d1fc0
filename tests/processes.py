"""Start the processes of a group as torchrun does, and leave none behind."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tests.conftest import REPOSITORY

SECONDS = 150
"""No group of these tests lasts longer, loaded machine included."""


@contextlib.contextmanager
def started(count: int, arguments: Sequence[str], folder: Path) -> Iterator[list[subprocess.Popen]]:
    """``python ARGUMENTS`` in ``count`` processes that meet at a port nobody else has; stdout and
    stderr in ``folder``.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    processes: list[subprocess.Popen] = []
    with contextlib.ExitStack() as files:
        try:
            for rank in range(count):
                place = {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "OMP_NUM_THREADS": "1",
                }
                out, err = (
                    files.enter_context(open(folder / f"{rank}.{name}", "w"))
                    for name in ("out", "err")
                )
                environment = {**os.environ, **meeting, **place}
                command = [sys.executable, *arguments]
                processes.append(
                    subprocess.Popen(
                        command, env=environment, cwd=REPOSITORY, stdout=out, stderr=err
                    )
                )
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


def finished(count: int, arguments: Sequence[str], folder: Path) -> list[str]:
    """What each of the processes printed, once all have ended well."""
    with started(count, arguments, folder) as processes:
        statuses = [p.wait(SECONDS) for p in processes]
    said = "".join((folder / f"{rank}.err").read_text() for rank in range(count))
    assert statuses == [0] * count, said
    return [(folder / f"{rank}.out").read_text() for rank in range(count)]
