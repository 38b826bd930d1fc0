"""``python -m fsm``: the command line for launchers that start modules, such as ``torchrun -m
fsm``.
"""

import sys

from fsm.cli import main

sys.exit(main())
