"""``fsm doctor``: what this machine has, and whether the method computes what the published one
does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fsm.cli.common import flag


@dataclass(frozen=True)
class Doctor:
    """Print the environment; with --golden also check the method against stored outputs (exit
    status 1 if off).
    """

    golden: Annotated[tuple[Path, ...] | None, flag("FILE ...", "no check")] = None
    """Golden files (weights, inputs and outputs of another implementation); without FILE the one
    that ships.
    """

    def run(self) -> int:
        """Print both tables."""
        from rich.console import Console
        from rich.table import Table

        console = Console()
        table = Table("", "", show_header=False, box=None)
        for name, value in environment():
            table.add_row(name, value)
        console.print(table)
        return 0 if self.golden is None else self._golden(console, self.golden)

    def _golden(self, console, files: tuple[Path, ...]) -> int:
        from rich.table import Column, Table

        from fsm.adapters.golden import SHIPPED, check_golden

        table = Table(
            Column("golden file", overflow="fold"),
            "Newton-Schulz",
            "largest error",
            "tolerance",
            "",
        )
        results = [check_golden(path) for path in files or (SHIPPED,)]
        for r in results:
            table.add_row(
                r.path.name,
                r.newton_schulz,
                f"{r.error:.2e}",
                f"{r.tolerance:.0e}",
                "ok" if r.passed else "OFF",
            )
        console.print(table)
        return 0 if all(r.passed for r in results) else 1


def environment() -> list[tuple[str, str]]:
    """What matters to this package, one line each."""
    import importlib.metadata
    import platform

    import torch

    import fsm
    from fsm.checkpoint import bundled_names
    from fsm.evaluate.lpips import available

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    cuda = torch.cuda.is_available()
    bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [
        ("fsm", f"{fsm.__version__}, Python {platform.python_version()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("devices", torch.cuda.get_device_name() if cuda else "cpu only"),
        (
            "bfloat16 on the CPU",
            "native" if bf16 else "emulated (slow): train and render in float32",
        ),
        ("gsplat", version("gsplat") + ("" if cuda else ", unused without CUDA")),
        ("video", f"PyAV {version('av')}, libx264 {'found' if _has_h264() else 'MISSING'}"),
        ("viser", version("viser")),
        (
            "LPIPS weights",
            ", ".join(n for n in ("vgg", "alex", "squeeze") if available(n)) or "none found",
        ),
        ("bundled models", ", ".join(bundled_names()) or "none"),
    ]


def _has_h264() -> bool:
    import av

    return "libx264" in av.codecs_available
