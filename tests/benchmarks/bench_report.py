"""How long a report takes to write when everything in it is known, and how heavy its pages are.

    python tests/benchmarks/bench_report.py
    python tests/benchmarks/bench_report.py --filters 128 --images 20 --methods 8 --networks 2

Wall-clock and processor seconds of `write_report`, in one process; then the number and weight of files of each kind.
The page's weight is the HTML with the style sheet and the script: pictures are loaded when they come into view.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from report_example import drawn_images, example_contents

from interp_cnn.explanation.methods.registry import STANDARD
from interp_cnn.report import Contents, write_report


def contents_of(*, filters: int, images: int, methods: int, networks: int) -> Contents:
    """Drawn images, random networks, maps of blobs; both networks of a comparison, or the first alone."""
    given = example_contents(
        filters=filters, images=drawn_images(max(images, 96), 64), samples=images, methods=STANDARD[:methods]
    )
    return given if networks == 2 else replace(given, networks=given.networks[:1])


def page_weights(folder: Path) -> list[str]:
    """One line per kind of page: how many, and the heaviest with style sheet and script, in kB."""
    shared = sum(path.stat().st_size for path in (folder / "assets").iterdir())
    kinds: dict[str, list[int]] = {}
    for path in folder.rglob("*.html"):
        place = path.relative_to(folder)
        kind = place.parts[0] if len(place.parts) > 1 else place.stem.partition("-")[0]
        kinds.setdefault(kind, []).append(path.stat().st_size + shared)
    return [
        f"{kind:10} {len(found):6} pages, heaviest {max(found) / 1e3:8.1f} kB"
        for kind, found in kinds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("filters", 512), ("images", 1000), ("methods", 1), ("networks", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    contents = contents_of(**options)
    with tempfile.TemporaryDirectory() as place:
        wall, processor = time.perf_counter(), time.process_time()
        folder = write_report(Path(place) / "report", contents).parent
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        pictures = list((folder / "figures").rglob("*.png"))
        weight = sum(path.stat().st_size for path in pictures) / 1e6
        words = ", ".join(f"{value} {name}" for name, value in options.items())
        print(f"{words}: {wall:.1f} s, {processor:.1f} s of processor time")
        print(f"{len(pictures)} pictures, {weight:.1f} MB")
        print("\n".join(page_weights(folder)))


if __name__ == "__main__":
    main()
