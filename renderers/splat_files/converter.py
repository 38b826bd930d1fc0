"""A program of its own: one splat file to another by ``gaussforge``, a compiled library.

``python converter.py SOURCE KIND TARGET KIND``. Damaged .sog files ended the process that read them
when version 0.6.0 was tried, so it works in a process of its own. It imports nothing of this
package.
"""

import sys
from pathlib import Path

# address space in bytes
MEMORY = 8 << 30
FAILED = 3


def main(source: str, kind: str, target: str, wanted: str) -> int:
    """Convert, print the library's complaint if it has one, and return the exit status."""
    import gaussforge

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    result = gaussforge.GaussForge().convert(Path(source).read_bytes(), kind, wanted)
    if "error" in result:
        print(f"\n{result['error']}", end="")
        return FAILED
    Path(target).write_bytes(result["data"])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
