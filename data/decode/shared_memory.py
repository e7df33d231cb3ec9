"""A file in memory shared by a process and its child, to pass videos and frames.

On Linux it is a memfd, which C libraries open by its path under /proc; elsewhere it is a temporary
file.
"""

import mmap
import os
import tempfile
from pathlib import Path


class SharedFile:
    """A shared file; `path` is valid here and in a child that inherits `descriptor`."""

    def __init__(self, path: str | None = None) -> None:
        """Create a file; with a path, open the one that the parent created."""
        if path is not None:
            self.descriptor, self.path = os.open(path, os.O_RDWR), path
        elif hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("cascade")
            self.path = f"/proc/self/fd/{self.descriptor}"
        else:
            self.descriptor, self.path = tempfile.mkstemp(prefix="cascade-")
        self._map: mmap.mmap | None = None

    def write(self, data: bytes) -> None:
        """Replace the content of the file; its pages are reused."""
        os.ftruncate(self.descriptor, len(data))
        rest, at = memoryview(data), 0
        while at < len(data):
            at += os.pwrite(self.descriptor, rest[at:], at)

    def view(self, size: int) -> memoryview:
        """The first `size` bytes, for reading and writing; a smaller file is enlarged."""
        if self._map is None or len(self._map) < size:
            if os.fstat(self.descriptor).st_size < size:
                os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        return memoryview(self._map)[:size]

    def close(self) -> None:
        """Close the file; existing views keep their memory."""
        self._map = None
        os.close(self.descriptor)
        if not self.path.startswith("/proc/"):
            Path(self.path).unlink(missing_ok=True)
