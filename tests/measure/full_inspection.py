"""What `make index DEPTH=full` costs beside a bare decode.

`python tests/measure/full_inspection.py VIDEO…`

CPU seconds of decoding every frame once by PyAV, single-threaded and without any check, and of a
full inspection in the same process, in rounds that take turns; the median of each, and their ratio.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cascade.media.reason import MAX_PIXELS
from data.decode.inspection import inspect_media
from data.decode.media import Media


def bare(path: str) -> None:
    """Decode every frame."""
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        for _ in container.decode(video=0):
            pass


def full(path: str) -> None:
    """Inspect at depth `full`."""
    inspect_media(Media(path=path, number=0, max_pixels=MAX_PIXELS), "full")


def cpu(work: Callable[[str], None], paths: list[str]) -> float:
    """CPU seconds of some work on all videos."""
    start = time.process_time()
    for path in paths:
        work(path)
    return time.process_time() - start


def main() -> None:
    """Print a line per kind of work, and the ratio of each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    rounds = [(cpu(bare, chosen.videos), cpu(full, chosen.videos)) for _ in range(chosen.rounds)]
    ratios = sorted(after / before for before, after in rounds)
    for place, name in enumerate(("bare decode", "full inspection")):
        median = statistics.median(one[place] for one in rounds)
        sys.stdout.write(f"{name}: median {median:.2f} CPU seconds\n")
    sys.stdout.write(
        f"ratio: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}, "
        f"of {chosen.rounds} rounds with {len(chosen.videos)} videos\n"
    )


if __name__ == "__main__":
    main()
