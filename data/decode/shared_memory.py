"""A file in memory that a process and its child both see: videos go one way, frames the other.

On Linux it is a memfd, which readers written in C open by its path under /proc; elsewhere it is a
temporary file.
"""

import mmap
import os
import tempfile
from pathlib import Path


class SharedFile:
    """A file by `path`, the same path in this process and in a child that got its `descriptor`."""

    def __init__(self, path: str | None = None) -> None:
        """Make one; with a path, the one that the parent has there."""
        if path is not None:
            self.descriptor, self.path = os.open(path, os.O_RDWR), path
        elif hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("cascade")
            self.path = f"/proc/self/fd/{self.descriptor}"
        else:
            self.descriptor, self.path = tempfile.mkstemp(prefix="cascade-")
        self._map: mmap.mmap | None = None

    def write(self, data: bytes) -> None:
        """Make these bytes the whole file; its pages are kept for the next."""
        os.ftruncate(self.descriptor, len(data))
        rest, at = memoryview(data), 0
        while at < len(data):
            at += os.pwrite(self.descriptor, rest[at:], at)

    def view(self, size: int) -> memoryview:
        """The first `size` bytes, to read and write; a file that is smaller grows."""
        if self._map is None or len(self._map) < size:
            if os.fstat(self.descriptor).st_size < size:
                os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        return memoryview(self._map)[:size]

    def close(self) -> None:
        """Give the file up; views that are still held keep their memory."""
        self._map = None
        os.close(self.descriptor)
        if not self.path.startswith("/proc/"):
            Path(self.path).unlink(missing_ok=True)
