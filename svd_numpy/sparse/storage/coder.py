"""An adaptive arithmetic coder: the more likely a bit was, the less space it takes.

The same code describes a format for writing and for reading: `Writer.bit` takes a bit, writes it and returns it;
`Reader.bit` ignores its argument and returns the bit that was written. Functions built from `bit`, such as `number`,
work likewise. All arithmetic is on whole numbers, so a file means the same on every machine.

The interval arithmetic is that of Witten, Neal and Cleary (1987) in bytes, as in Martin's range coder (1979).
"""

from __future__ import annotations

from typing import Protocol

from svd_numpy.checks import SvdValueError

_TOP, _LOW = 1 << 48, 1 << 40  # the range is kept in [_LOW, _TOP)
_SCALE = 16  # bits of a probability


class Context:
    """How often a bit has been 1 so far.

    The probability of a 1 is estimated as (ones + 1/2) / (all + 1) (Krichevsky and Trofimov 1981); learning it costs
    about log2(all) / 2 bits.
    """

    __slots__ = ("all", "ones")

    def __init__(self) -> None:
        self.ones = self.all = 0

    def chance(self) -> int:
        """Probability of a 1 in units of 2^-16, strictly between 0 and 1."""
        return ((2 * self.ones + 1) << _SCALE) // (2 * self.all + 2) or 1

    def learn(self, bit: int) -> None:
        """Count one more bit."""
        self.ones += bit
        self.all += 1


class Coder(Protocol):
    """A `Writer` or a `Reader`."""

    def bit(self, context: Context | None, bit: int) -> int:
        """Code one bit; without a context, 0 and 1 are equally likely."""


class Writer:
    """Turns bits into bytes."""

    def __init__(self) -> None:
        self._low, self._range, self._bytes = 0, _TOP - 1, bytearray()

    def bit(self, context: Context | None, bit: int) -> int:
        """Write a bit and return it."""
        bit = int(bool(bit))
        split = (self._range >> _SCALE) * (context.chance() if context else 1 << _SCALE - 1)
        if bit:
            self._range = split
        else:
            self._low += split
            self._range -= split
        if context:
            context.learn(bit)
        while self._range < _LOW:
            self._shift()
        return bit

    def _shift(self) -> None:
        """Move the top byte to the output; a carry goes into the bytes already written."""
        if self._low >= _TOP:
            at = len(self._bytes) - 1
            while self._bytes[at] == 255:
                self._bytes[at] = 0
                at -= 1
            self._bytes[at] += 1
            self._low -= _TOP
        self._bytes.append(self._low >> 40)
        self._low = (self._low & (_LOW - 1)) << 8
        self._range <<= 8

    def finish(self) -> bytes:
        """Return the fewest bytes that decode to what was written; a reader takes the bytes after them as zeros."""
        for kept in range(7):
            unit = 1 << 48 - 8 * kept
            value = -(-self._low // unit) * unit
            if value < self._low + self._range:
                break
        self._low = value
        for _ in range(6):
            self._shift()
        return bytes(self._bytes).rstrip(b"\0")


class Reader:
    """Turns bytes back into the bits that a `Writer` was given.

    It accepts any bytes, damaged ones too: the caller must check what it decodes.
    """

    def __init__(self, data: bytes) -> None:
        self._bytes, self._at, self._range = data, 6, _TOP - 1
        self._value = int.from_bytes(data[:6].ljust(6, b"\0"), "big")

    def bit(self, context: Context | None, bit: int = 0) -> int:
        """Return the next bit, whatever `bit` is."""
        split = (self._range >> _SCALE) * (context.chance() if context else 1 << _SCALE - 1)
        if self._value < split:
            found, self._range = 1, split
        else:
            found = 0
            self._value -= split
            self._range -= split
        if context:
            context.learn(found)
        while self._range < _LOW:
            following = self._bytes[self._at] if self._at < len(self._bytes) else 0
            self._value = (self._value << 8 | following) & (_TOP - 1)
            self._at += 1
            self._range <<= 8
        return found


class Numbers:
    """What has been learned about whole numbers of one kind.

    A number n >= 0 is coded as the length of n + 1 in bits, in unary, then the bits after the leading one. The length
    and the first two of those bits are learned, the others are treated as noise (Elias 1975, made adaptive).
    """

    def __init__(self) -> None:
        self._contexts: dict[tuple[int, int], Context] = {}

    def context(self, length: int, prefix: int) -> Context:
        """Context of the bit after `prefix` in numbers of this length."""
        key = length, prefix
        if key not in self._contexts:
            self._contexts[key] = Context()
        return self._contexts[key]


def number(coder: Coder, seen: Numbers, value: int = 0, high: int = 2**32 - 1) -> int:
    """Code a whole number in [0, high].

    Raises
    ------
    ValueError
        If the number read is larger than `high`.
    """
    value += 1
    width, length = value.bit_length() - 1, 0
    while coder.bit(seen.context(length, 0), length < width):
        length += 1
        if length > 33:
            raise SvdValueError(f"got a number of more than {length} bits, expected at most {high}")
    found = 1
    for place in reversed(range(length)):
        context = seen.context(length, found) if found < 4 else None
        found = found << 1 | coder.bit(context, value >> place & 1)
    if found - 1 > high:
        raise SvdValueError(f"got the number {found - 1}, expected at most {high}")
    return found - 1
