"""Entry point of `python -m tests.simulation`."""

import sys
from pathlib import Path

# The tests' packages are imported as pytest does it: from the folder `tests`.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulation.command import main

main()
