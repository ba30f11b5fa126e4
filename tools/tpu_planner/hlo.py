"""What a compiled program does, read from the text of its HLO: loops, collectives, memory traffic.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import dataclasses
import functools
import re

from tpu_planner.instructions import ARRAY, bytes_of, parse

_CALLED = re.compile(r"(?:body|to_apply|calls|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+))"
)
_BODY = re.compile(r"body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CHAIN = re.compile(r'chain_id="(\d+)"')

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# They move nothing, or what they move is counted where it is used.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while"}
_FREE |= {"conditional", "call", "partition-id", "replica-id", "opt-barrier", "iota"}
_HOST = {"infeed", "outfeed", "send", "recv"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and size.

    Attributes:
        kind: of `COLLECTIVES`.
        bytes: of the results of one.
        count: how many run in a call of the program.
        group: devices that take part in one.
    """

    kind: str
    bytes: int
    count: int
    group: int


class Program:
    """A compiled program.

    Args:
        text: HLO after all optimisations, of one device.
        devices: how many run it.
    """

    def __init__(self, text, devices):
        self._devices = devices
        self._computations, self._entry = parse(text)

    @functools.cached_property
    def runs(self):
        """{name: how often it runs} of the computations that instructions run in one by one.

        The inside of a fusion is none of them. Of a conditional each branch counts.
        """
        found, waiting = {}, [(self._entry, 1)]
        while waiting:
            name, times = waiting.pop()
            found[name] = found.get(name, 0) + times
            for instruction in self._computations[name].values():
                for inner, trips in _runs_inside(instruction):
                    waiting.append((inner, times * trips))
        return found

    @property
    def collectives(self):
        """`Collective`s in the order of their bytes, largest first."""
        found = {}
        for computation, times in self.runs.items():
            chains = set()
            for instruction in self._with_fusions(computation):
                kind = instruction.opcode.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                # A chain is one collective in parts, which run beside other work.
                chain = _CHAIN.search(instruction.rest)
                if chain and chain[1] in chains:
                    continue
                chains |= {chain[1]} if chain else set()
                size = bytes_of(_result(instruction), anywhere=True)
                key = (kind, size, self._group(instruction.rest))
                found[key] = found.get(key, 0) + times
        made = [Collective(k, size, count, group) for (k, size, group), count in found.items()]
        return sorted(made, key=lambda c: -c.bytes * c.count)

    @property
    def host_calls(self):
        """Names of instructions that leave the device."""
        found = []
        for instructions in self._computations.values():
            for of in instructions.values():
                target = re.search(r'custom_call_target="([^"]*)"', of.rest)
                calls = target and re.search("callback|host", target[1], re.IGNORECASE)
                if of.opcode.removesuffix("-done") in _HOST or calls:
                    found.append(of.name)
        return found

    def moved(self, loops=True):
        """Bytes that instructions read from and write to the main memory of the device.

        Args:
            loops: whether a loop's body counts as often as it runs, or once.
        """
        return sum(
            (times if loops else 1) * self._moved_by(name, instruction)
            for name, times in self.runs.items()
            for instruction in self._computations[name].values()
            if instruction.opcode not in _FREE and not instruction.opcode.endswith("-done")
        )

    def _moved_by(self, computation, instruction):
        inside = self._fused(instruction)
        if instruction.opcode == "slice-start":  # whose type names all of what it takes a part of
            part = [found[0] for found in ARRAY.finditer(instruction.shape)][-2]
            return bytes_of(part, anywhere=True) + bytes_of(part)
        if instruction.opcode.endswith("-start"):
            return bytes_of(instruction.shape)  # which names what is read as well
        if instruction.opcode in ("dynamic-slice", "gather"):
            return 2 * bytes_of(instruction.shape)
        if instruction.opcode == "dynamic-update-slice":
            return 2 * bytes_of(self._shape(computation, instruction.operands[1]))
        read = self._operand_bytes(computation, instruction)
        written = bytes_of(instruction.shape)
        if inside:
            root = next(i for i in inside.values() if i.is_root)
            parameters = [i for i in inside.values() if i.opcode == "parameter"]
            parameters.sort(key=lambda i: int(i.operands[0]))
            read = [
                min(size, _read_of(parameter, inside))
                for size, parameter in zip(read, parameters, strict=False)
            ]
            if root.opcode == "dynamic-update-slice":
                written = bytes_of(inside[root.operands[1]].shape)
        return sum(read) + written

    def _with_fusions(self, computation):
        for instruction in self._computations[computation].values():
            yield instruction
            yield from (self._fused(instruction) or {}).values()

    def _fused(self, instruction):
        """The instructions inside of a fusion; None of anything else."""
        if instruction.opcode not in ("fusion", "async-start", "custom-call"):
            return None
        called = _CALLED.search(instruction.rest)
        return self._computations.get(called[1]) if called else None

    def _shape(self, computation, name):
        return self._computations[computation][name].shape

    def _operand_bytes(self, computation, instruction):
        known = self._computations[computation]
        return [bytes_of(known[name].shape) for name in instruction.operands if name in known]

    def _group(self, rest):
        """Devices in a group: {{0,1},{2,3}}, or [2,4]<=[8], which are 2 groups of 4."""
        listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
        if listed:
            return listed[1].count(",") + 1
        shaped = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
        return int(shaped[1]) if shaped else self._devices


def _runs_inside(instruction):
    """(computation, how often) of what an instruction runs one by one."""
    if instruction.opcode == "while":
        trips = _TRIPS.search(instruction.rest)
        body = re.search(r"body=%?([\w.\-]+)", instruction.rest)[1]
        return [(body, int(trips[1]) if trips else 1)]
    if instruction.opcode == "conditional":
        listed = _BRANCHES.findall(instruction.rest)
        names = [name for both in listed for part in both for name in part.split(",") if name]
        return [(name.strip().lstrip("%"), 1) for name in names]
    if instruction.opcode == "call":
        return [(_CALLED.search(instruction.rest)[1], 1)]
    return []


def _read_of(parameter, inside):
    """Bytes that a fusion reads of one of its parameters at most."""
    users = [i for i in inside.values() if parameter.name in i.operands]
    sliced = ("dynamic-slice", "gather", "dynamic-update-slice")
    if not users or any(i.opcode not in sliced or i.operands[0] != parameter.name for i in users):
        return bytes_of(parameter.shape)
    # What is updated in place is not read.
    return sum(bytes_of(i.shape) for i in users if i.opcode != "dynamic-update-slice")


def _result(instruction):
    """The type of what a collective returns; the start of some names its operands before that."""
    if instruction.opcode not in ("all-gather-start", "collective-permute-start"):
        return instruction.shape
    arrays, count = [a[0] for a in ARRAY.finditer(instruction.shape)], len(instruction.operands)
    return " ".join(arrays[count : 2 * count])
