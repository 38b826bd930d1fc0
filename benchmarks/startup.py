"""How long ``fsm --help`` and ``import fsm`` take, in fresh processes, and whether either loads
torch.

Wall-clock time, as a user waits; the smallest of several runs, because neighbours only ever add to
it.

    python -m benchmarks.startup
"""

import resource
import subprocess
import sys
import time

from benchmarks.common import Verdicts, parser, start

CASES = {
    "fsm --help": ("from fsm.cli import main; main(['--help'])", 1.0),
    "import fsm": ("import fsm", 0.5),
}


def measure(code: str, repeats: int) -> tuple[float, float]:
    """Smallest wall-clock and CPU seconds of ``python -c code``."""
    wall, cpu = [], []
    for _ in range(repeats + 1):  # the first fills the disk cache
        used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
    return min(wall[1:]), min(cpu[1:])


def loads_torch(code: str) -> bool:
    """Whether ``code`` imports torch."""
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    out = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True
    ).stdout
    return out.splitlines()[-1] == "True"


def main() -> None:
    """Print the table and the verdicts."""
    args = parser(__doc__).parse_args()
    start("Start-up")
    print(f"\n{'':<12} {'wall s':>7} {'CPU s':>7} {'loads torch':>12}")
    verdicts, rows = Verdicts(), []
    for name, (code, limit) in CASES.items():
        wall, cpu = measure(code, args.repeats)
        print(f"{name:<12} {wall:>7.2f} {cpu:>7.2f} {'yes' if loads_torch(code) else 'no':>12}")
        rows.append((name, wall, limit))
    print()
    for name, wall, limit in rows:
        verdicts.check(name, wall, limit, unit=" s")
    verdicts.close()


if __name__ == "__main__":
    main()
