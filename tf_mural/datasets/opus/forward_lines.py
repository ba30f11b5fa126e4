"""Lines of a binary stream that cannot seek."""

from tf_mural.errors import UserError

_CHUNK_BYTES = 1 << 20
_MAX_LINE_BYTES = 16 << 20


class ForwardLines:
    """Iterates over the lines of a stream; leading lines may be skipped quickly.

    Args:
        stream: binary file at its start.
        where: name of the stream for messages.

    Attributes:
        number: number of lines skipped.
        offset: number of bytes skipped.
    """

    def __init__(self, stream, where):
        self.number = 0
        self.offset = 0
        self._stream = stream
        self._where = where
        self._pending = b""
        self._inside_line = False  # whether the skipped bytes end in the middle of a line

    def skip_to(self, offset):
        """Skips the lines that start before byte `offset`; None skips all lines."""
        if offset == 0:
            return
        # If the byte before `offset` ends a line, the next line starts at `offset`.
        while chunk := self._next_chunk():
            remaining = len(chunk) if offset is None else offset - 1 - self.offset
            if remaining < len(chunk):
                end = chunk.find(b"\n", max(remaining, 0))
                if end >= 0:
                    self._skip(chunk, end + 1)
                    return
            self._skip(chunk, len(chunk))
        self._count_last_line()

    def skip_lines(self, count):
        """Skips `count` lines, or all lines if there are fewer."""
        while count > self.number and (chunk := self._next_chunk()):
            missing = count - self.number
            end = len(chunk)
            if chunk.count(b"\n") >= missing:
                end = 0
                for _ in range(missing):
                    end = chunk.index(b"\n", end) + 1
            self._skip(chunk, end)
        if count > self.number:
            self._count_last_line()

    def __iter__(self):
        """Yields the remaining lines as bytes without their line feeds.

        Raises:
            UserError: a line has more than 16 MiB.
        """
        bom = b"\xef\xbb\xbf" if self.number == 0 else b""
        partial = b""
        while chunk := self._next_chunk():
            *lines, partial = (partial + chunk).split(b"\n")
            if len(partial) > _MAX_LINE_BYTES:
                mib = _MAX_LINE_BYTES >> 20
                raise UserError(f"{self._where} is no text: a line of more than {mib} MiB")
            if bom and lines:
                lines[0] = lines[0].removeprefix(bom)
                bom = b""
            yield from lines
        if partial:
            yield partial.removeprefix(bom)

    def _next_chunk(self):
        chunk, self._pending = self._pending, b""
        return chunk or self._stream.read(_CHUNK_BYTES)

    def _skip(self, chunk, end):
        """Skips the first `end` bytes of a chunk; `_next_chunk` returns the other bytes later."""
        self.number += chunk.count(b"\n", 0, end)
        self.offset += end
        self._inside_line = chunk[end - 1 : end] != b"\n"
        self._pending = chunk[end:]

    def _count_last_line(self):
        """Counts the last line if it has no line feed."""
        self.number += self._inside_line
        self._inside_line = False
