"""The pictures of docs/gallery.md: every example is run, and its picture made small.

    python docs/_site/gallery.py
    python docs/_site/gallery.py quickstart time_series

All of them take about ten minutes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "images" / "gallery"
WIDTH, COLOURS = 720, 96


def main(names: list[str]) -> None:
    """Run the examples of these names, or all."""
    TARGET.mkdir(exist_ok=True)
    for script in sorted((ROOT / "examples").glob("*.py")):
        if names and script.stem not in names:
            continue
        print(f"== {script.name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, str(script)], cwd=folder, check=True)
            (picture,) = Path(folder).glob("*.png")
            shrink(picture, TARGET / f"{script.stem}.png")


def shrink(source: Path, target: Path) -> None:
    """A picture of `WIDTH` points and few colours: some 30 kB."""
    with Image.open(source) as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        small.quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
