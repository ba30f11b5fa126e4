"""The text of HLO as instructions, and the bytes of their types."""

import dataclasses
import functools
import re

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
ARRAY = re.compile(r"(pred|bf16|f8\w+|[fsuc]\d+)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")


@dataclasses.dataclass
class Instruction:
    """A line of a computation.

    Attributes:
        name, opcode: of the instruction.
        shape: text of its type.
        operands: names.
        rest: text after the operands.
        is_root: whether the computation's value is its own.
    """

    name: str
    opcode: str
    shape: str
    operands: list
    rest: str
    is_root: bool


def parse(text):
    """{name: {name: Instruction}}, and the name of the entry."""
    computations, entry, now = {}, None, None
    for line in text.splitlines():
        opened = _COMPUTATION.match(line)
        if opened:
            now = computations.setdefault(opened[2], {})
            entry = opened[2] if opened[1] else entry
        elif line.startswith("}"):
            now = None
        elif now is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found, line)
            now[instruction.name] = instruction
    return computations, entry


def _instruction(found, line):
    end = _end_of_type(line, found.end())
    opcode = _OPCODE.match(line, end)
    close = _closing(line, opcode.end() - 1)
    operands = line[opcode.end() : close]
    names = re.findall(r"%([\w.\-]+)", operands) or [x for x in operands.split(",") if x.strip()]
    rest = line[close + 1 :]
    return Instruction(
        found[2], opcode[1], line[found.end() : end], names, rest, found[1] is not None
    )


def _end_of_type(line, start):
    if line[start] == "(":
        return _closing(line, start) + 1
    array = ARRAY.match(line, start)
    return array.end() if array else line.index(" ", start)


def _closing(line, start):
    """Position of the bracket that closes the one at `start`."""
    depth = 0
    for position in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"Expected a closing bracket. Received: {line[start:][:80]}.")


@functools.lru_cache(maxsize=1 << 16)
def bytes_of(shape, anywhere=False):
    """Bytes of a type in main memory, or anywhere: also in the memory spaces of the core."""
    arrays = ARRAY.findall(shape)
    return sum(_size(*a) for a in arrays if anywhere or not re.search(r"S\([1-9]", a[2]))


def _size(dtype, dimensions, _):
    count = 1
    for dimension in filter(None, dimensions.split(",")):
        count *= int(dimension)
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
    return count * bits // 8
