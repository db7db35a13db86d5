"""The scripts are no package: they find one another, and the tests find them, by their folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
