"""docs/recipe.md says what the code says."""

import subprocess
import sys
from pathlib import Path


def test_the_page_on_recipes_is_up_to_date() -> None:
    script = Path(__file__).parents[2] / "scripts" / "write_recipe_reference.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
