"""Parses the text of HLO into instructions, and computes the sizes of their types."""

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
    """An instruction, which is one line of a computation.

    Attributes:
        name: name of the instruction.
        opcode: operation of the instruction, such as "fusion".
        shape: type of the result, as text.
        operands: names of the operands.
        attributes: text after the operands.
        is_root: whether the result of the instruction is the result of the computation.
    """

    name: str
    opcode: str
    shape: str
    operands: list
    attributes: str
    is_root: bool


def parse(text):
    """Returns the instructions of all computations, and the name of the entry computation.

    The instructions are a dict from computation to a dict from name to `Instruction`.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _parse_instruction(match, line)
            current[instruction.name] = instruction
    return computations, entry


def _parse_instruction(match, line):
    end = _end_of_type(line, match.end())
    opcode = _OPCODE.match(line, end)
    close = _closing_bracket(line, opcode.end() - 1)
    operands = line[opcode.end() : close]
    names = re.findall(r"%([\w.\-]+)", operands) or [x for x in operands.split(",") if x.strip()]
    attributes, shape = line[close + 1 :], line[match.end() : end]
    return Instruction(match[2], opcode[1], shape, names, attributes, match[1] is not None)


def _end_of_type(line, start):
    if line[start] == "(":
        return _closing_bracket(line, start) + 1
    array = ARRAY.match(line, start)
    return array.end() if array else line.index(" ", start)


def _closing_bracket(line, start):
    """Returns the position of the bracket that closes the bracket at `start`."""
    depth = 0
    for position in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"Expected a closing bracket. Received: {line[start:][:80]}.")


@functools.lru_cache(maxsize=1 << 16)
def num_bytes(shape, in_any_memory=False):
    """Returns the size in bytes of a type.

    Args:
        shape: type, as text.
        in_any_memory: True: arrays in HBM and in the memories of the core count; False: only arrays
            in HBM count.
    """
    arrays = ARRAY.findall(shape)
    return sum(
        _array_bytes(*a) for a in arrays if in_any_memory or not re.search(r"S\([1-9]", a[2])
    )


def _array_bytes(dtype, dimensions, _):
    size = 1
    for dimension in filter(None, dimensions.split(",")):
        size *= int(dimension)
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
    return size * bits // 8
