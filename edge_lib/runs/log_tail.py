"""Lines of a log that another process writes, perhaps on another machine."""

import os
from pathlib import Path

CHECKED = 4096  # bytes before the position that must still be there: a new file may have the inode


class LogTail:
    """Prints the lines that are added to a log. A process that starts again begins it anew."""

    def __init__(self, path: Path):
        self.path, self.position, self.inode = path, 0, None
        self.last = self.line = b""

    def print_new(self) -> None:
        """Print the complete lines since the last call."""
        added = self._read()  # which forgets the line of an earlier log
        *lines, self.line = (self.line + added).split(b"\n")
        for line in lines:
            print(line.decode(errors="replace"), flush=True)

    def print_rest(self) -> None:
        """Print what a process that has ended has left, also a line without an end."""
        self.print_new()
        if self.line:
            print(self.line.decode(errors="replace"), flush=True)
            self.line = b""

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:  # opened again, as a network file system asks for
                inode = os.fstat(file.fileno()).st_ino
                file.seek(self.position - len(self.last))
                content = file.read()
                if inode != self.inode or not content.startswith(self.last):
                    self.inode, self.position, self.last, self.line = inode, 0, b"", b""
                    file.seek(0)
                    content = file.read()
        except OSError:  # no process has started yet, or the file is being replaced
            return b""
        added = content[len(self.last) :]
        self.position += len(added)
        self.last = content[-CHECKED:]
        return added
