"""Server-sent events as a pure state machine: bytes in, the data of events out, however the bytes were cut.

As the HTML standard has it: lines end with LF, CR or CR LF; "data:" lines of one event are joined; lines that begin with a
colon are comments; an empty line ends an event; an event that no empty line ends is none. Other fields are ignored.
"""

from __future__ import annotations

__all__ = ["Events"]

MAX_LINE_BYTES = 4 << 20


class Events:
    """Reads one stream. Raises ValueError for what is no text, and for a line or an event beyond any measure."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()  # that has not ended
        self._data: list[bytes] = []
        self._n_data = 0
        self._after_cr = False
        self._first = True

    def feed(self, data: bytes) -> list[str]:
        """The data of every event that ends in these bytes."""
        found: list[str] = []
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        for line in lines[:-1]:
            whole = bytes(self._line) + line if self._line else line
            self._line.clear()
            self._check(len(whole))
            event = self._end_of(whole)
            if event is not None:
                found.append(event)
        self._line += lines[-1]
        self._check(len(self._line))
        return found

    def _check(self, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise ValueError(f"a line of more than {self._max_bytes >> 20} MiB")

    def _end_of(self, line: bytes) -> str | None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                value = value.removeprefix(b" ")
                self._n_data += len(value)
                self._check(self._n_data)
                self._data.append(value)
            return None
        if not self._data:
            return None
        whole = b"\n".join(self._data)
        self._data, self._n_data = [], 0
        try:
            return whole.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("bytes that are no text") from None
