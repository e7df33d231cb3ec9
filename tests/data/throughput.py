"""What a batch costs beside bare decoding: `python tests/data/throughput.py SHARDS`.

CPU seconds per clip, children counted, in rounds that take turns: Cascade's loader; decord alone on
the same frames of the same clips, nothing scaled, cropped or read from a shard; and a plain loader
of webdataset and decord that gives the same frames at the same size.
"""

import argparse
import io
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TICK = os.sysconf("SC_CLK_TCK")


def cpu() -> float:
    """CPU seconds of this process and of all below it."""
    total, below = 0.0, [os.getpid()]
    while below:
        pid = below.pop()
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in stat[11:15]) / TICK
            tasks = Path(f"/proc/{pid}/task").iterdir()
            below += [int(c) for t in tasks for c in (t / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--clips", type=int, default=32, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()

    import decord
    import torch
    import webdataset

    from cascade.grid import Grid
    from cascade.times import clip_length
    from data.shards.store import read_span
    from data.train.module import ShardData
    from data.train.options import (
        IndexOptions,
        LoadingOptions,
        SelectionOptions,
        ValidationOptions,
    )

    torch.set_num_threads(1)
    grid = Grid(frames=chosen.frames, height=chosen.size, width=chosen.size, fps=chosen.fps)
    seen: list[tuple[dict, np.ndarray]] = []

    def module(**options):
        return ShardData(
            shards=chosen.shards,
            grid=grid,
            global_batch=chosen.clips,
            batching="fixed",
            selection=SelectionOptions(max_dropped=1.0),
            validation=ValidationOptions(share=0.0),
            index=IndexOptions(depth="full"),
            loading=LoadingOptions(**options),
        )

    ours = module()
    ours.prepare_data()
    ours.setup()
    loader = iter(ours.train_loader(first=0, count=chosen.rounds + 1))
    source = ours._train_reader(index=ours.chosen.index, rows=ours.pool.rows, fit=ours.chosen.fit)

    def frames_of(draw) -> tuple[dict, np.ndarray]:
        """A clip's line in the index, and the seconds that its sample is made of."""
        line = ours.chosen.index.row(draw.row)
        data = read_span(line["shard"], (line["offset"], line["size"]))
        timing = source.decoder.open(data)
        length = clip_length(timing.duration, grid.fps)
        start = source.clipper.start(length, grid.frames, draw.position)
        return line, (start + np.arange(grid.frames)) / grid.fps

    def bare() -> None:
        for _, data, index in seen:
            with MemoryFile(data) as path:
                decord.VideoReader(path, num_threads=1).get_batch(index).asnumpy()

    def plain() -> None:
        wanted = {line["key"]: index for line, _, index in seen}
        raw = webdataset.WebDataset(chosen.shards, shardshuffle=False)
        for sample in raw:
            if sample["__key__"] not in wanted:
                continue
            reader = decord.VideoReader(io.BytesIO(sample["mp4"]), num_threads=1)
            x = torch.from_numpy(reader.get_batch(wanted[sample["__key__"]]).asnumpy())
            h, w = x.shape[1:3]
            scale = max(chosen.size / h, chosen.size / w)
            size = (max(chosen.size, round(h * scale)), max(chosen.size, round(w * scale)))
            x = torch.nn.functional.interpolate(
                x.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True
            )
            x[:, :, : chosen.size, : chosen.size].contiguous()
            sample["txt"].decode()
            json.loads(sample["json"])

    work: dict[str, Callable[[], object]] = {
        "decord alone": bare,
        "cascade": lambda: next(loader),
        "webdataset + decord": plain,
    }
    spent: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(chosen.rounds + 1):
        draws = ours.plan.share(turn, part=0, parts=1)
        seen.clear()
        for draw in draws:
            line, times = frames_of(draw)
            data = read_span(line["shard"], (line["offset"], line["size"]))
            with MemoryFile(data) as path:
                reader = decord.VideoReader(path, num_threads=1)
                shown = reader.get_frame_timestamp(range(len(reader)))[:, 0]
            shown = shown - shown[0]
            index = np.abs(shown[None] - times[:, None]).argmin(axis=1)
            seen.append((line, data, index))
        for name, one in work.items():
            began = cpu()
            one()
            clips = len({line["key"] for line, *_ in seen}) if name.startswith("web") else len(seen)
            if turn:  # the first round starts processes
                spent[name].append((cpu() - began) / clips)
    base = spent["decord alone"]
    for name, values in spent.items():
        shares = [b / v for b, v in zip(base, values, strict=True)]
        sys.stdout.write(
            f"{name:22s} {1e3 * statistics.median(values):7.1f} ms CPU per clip "
            f"[{1e3 * min(values):.1f}–{1e3 * max(values):.1f}], of decord alone "
            f"{statistics.median(shares):.2f} [{min(shares):.2f}–{max(shares):.2f}]\n"
        )


class MemoryFile:
    """A path to bytes without a disk."""

    def __init__(self, data: bytes) -> None:
        self.descriptor = os.memfd_create("clip")
        os.write(self.descriptor, data)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


if __name__ == "__main__":
    main()
