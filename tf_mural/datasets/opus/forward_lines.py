"""Lines of a stream that cannot seek."""

from tf_mural.errors import UserError

_CHUNK = 1 << 20
_LONGEST = 16 << 20  # of a line, in bytes


class Lines:
    """The lines of a stream in order; some may be passed over without looking at each.

    Args:
        stream: binary file, at its start.
        where: names it in messages.

    Attributes:
        number: how many lines were passed over.
        offset: how many bytes they took.
    """

    def __init__(self, stream, where):
        self.number = 0
        self.offset = 0
        self._stream = stream
        self._where = where
        self._waiting = b""
        self._inside = False  # whether what was passed over ends amid a line

    def pass_to(self, offset):
        """Passes over the lines that start before byte `offset`; None: over all."""
        if offset == 0:
            return
        # A line that ends at `offset` ends with the byte before it.
        while chunk := self._next():
            left = len(chunk) if offset is None else offset - 1 - self.offset
            if left < len(chunk):
                end = chunk.find(b"\n", max(left, 0))
                if end >= 0:
                    self._pass(chunk, end + 1)
                    return
            self._pass(chunk, len(chunk))
        self._end()

    def pass_lines(self, count):
        """Passes over `count` lines, or as many as there are."""
        while count > self.number and (chunk := self._next()):
            missing = count - self.number
            cut = len(chunk)
            if chunk.count(b"\n") >= missing:
                cut = 0
                for _ in range(missing):
                    cut = chunk.index(b"\n", cut) + 1
            self._pass(chunk, cut)
        if count > self.number:
            self._end()

    def __iter__(self):
        """Yields the lines not passed over, as bytes without their line feed.

        Raises:
            UserError: one has more than 16 MiB.
        """
        start = b"\xef\xbb\xbf" if self.number == 0 else b""
        rest = b""
        while chunk := self._next():
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST:
                mib = _LONGEST >> 20
                raise UserError(f"{self._where} is no text: a line of more than {mib} MiB")
            if start and whole:
                whole[0] = whole[0].removeprefix(start)
                start = b""
            yield from whole
        if rest:
            yield rest.removeprefix(start)

    def _next(self):
        chunk, self._waiting = self._waiting, b""
        return chunk or self._stream.read(_CHUNK)

    def _pass(self, chunk, cut):
        self.number += chunk.count(b"\n", 0, cut)
        self.offset += cut
        self._inside = chunk[cut - 1 : cut] != b"\n"
        self._waiting = chunk[cut:]

    def _end(self):
        """Counts a last line without a line feed."""
        self.number += self._inside
        self._inside = False
