"""Lines of a log that another process writes, perhaps on another machine."""

import os
from pathlib import Path


class LogTail:
    """Prints the lines that are added to a log. A process that starts again begins it anew."""

    def __init__(self, path: Path):
        self.path, self.position, self.inode, self.line = path, 0, None, b""

    def print_new(self) -> None:
        """Print the complete lines since the last call."""
        added = self._read()  # which forgets the line of an earlier log
        *lines, self.line = (self.line + added).split(b"\n")
        for line in lines:
            print(line.decode(errors="replace"), flush=True)

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:  # opened again, as a network file system asks for
                status = os.fstat(file.fileno())
                if status.st_ino != self.inode or status.st_size < self.position:
                    self.inode, self.position, self.line = status.st_ino, 0, b""
                file.seek(self.position)
                content = file.read()
        except FileNotFoundError:  # no process has started yet
            return b""
        self.position += len(content)
        return content
