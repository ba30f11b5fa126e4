"""Reads compiled HLO programs: loops, collectives and memory traffic.

The cost analysis of XLA counts the body of a loop once. This module counts a loop body as often as
it runs.
"""

import dataclasses
import functools
import re

from tpu_planner.instructions import ARRAY, num_bytes, parse

_CALLED = re.compile(r"(?:body|to_apply|calls|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+))"
)
_BODY = re.compile(r"body=%?([\w.\-]+)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CHAIN = re.compile(r'chain_id="(\d+)"')

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that move no data, or whose data are counted at the instructions that use them.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while"}
_FREE |= {"conditional", "call", "partition-id", "replica-id", "opt-barrier", "iota"}
_HOST = {"infeed", "outfeed", "send", "recv"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and size.

    Attributes:
        kind: one of `COLLECTIVES`.
        bytes: size of the result of one collective.
        count: number of collectives in one call of the program.
        group: number of devices that take part in one collective.
    """

    kind: str
    bytes: int
    count: int
    group: int


class Program:
    """A compiled program.

    Args:
        text: optimized HLO of one device.
        num_devices: number of devices that run the program.
    """

    def __init__(self, text, num_devices):
        self._num_devices = num_devices
        self._computations, self._entry = parse(text)

    @functools.cached_property
    def run_counts(self):
        """{computation: number of runs of the computation}, without computations inside fusions.

        All branches of a conditional are counted.
        """
        counts, pending = {}, [(self._entry, 1)]
        while pending:
            name, count = pending.pop()
            counts[name] = counts.get(name, 0) + count
            for instruction in self._computations[name].values():
                for called, trip_count in _called_computations(instruction):
                    pending.append((called, count * trip_count))
        return counts

    @property
    def collectives(self):
        """List of `Collective`, sorted by their total number of bytes, largest first."""
        counts = {}
        for computation, run_count in self.run_counts.items():
            chains = set()
            for instruction in self._with_fusions(computation):
                kind = instruction.opcode.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                # Instructions with the same chain id are parts of one collective.
                chain = _CHAIN.search(instruction.attributes)
                if chain and chain[1] in chains:
                    continue
                chains |= {chain[1]} if chain else set()
                size = num_bytes(_result_type(instruction), in_any_memory=True)
                key = (kind, size, self._group_size(instruction.attributes))
                counts[key] = counts.get(key, 0) + run_count
        collectives = [Collective(k, size, n, group) for (k, size, group), n in counts.items()]
        return sorted(collectives, key=lambda c: -c.bytes * c.count)

    @property
    def host_calls(self):
        """Names of the instructions that communicate with the host."""
        names = []
        for instructions in self._computations.values():
            for instruction in instructions.values():
                target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
                calls = target and re.search("callback|host", target[1], re.IGNORECASE)
                if instruction.opcode.removesuffix("-done") in _HOST or calls:
                    names.append(instruction.name)
        return names

    def hbm_bytes(self, with_trip_counts=True):
        """Returns the bytes that are read from and written to the main memory of the device.

        Args:
            with_trip_counts: True: the body of a loop counts as often as it runs; False: it counts
                once.
        """
        return sum(
            (run_count if with_trip_counts else 1) * self._instruction_bytes(name, instruction)
            for name, run_count in self.run_counts.items()
            for instruction in self._computations[name].values()
            if instruction.opcode not in _FREE and not instruction.opcode.endswith("-done")
        )

    def _instruction_bytes(self, computation, instruction):
        if instruction.opcode == "slice-start":  # the result type includes the whole operand
            part = [match[0] for match in ARRAY.finditer(instruction.shape)][-2]
            return num_bytes(part, in_any_memory=True) + num_bytes(part)
        if instruction.opcode.endswith("-start"):
            return num_bytes(instruction.shape)  # the result type includes the operands
        if instruction.opcode in ("dynamic-slice", "gather"):
            return 2 * num_bytes(instruction.shape)
        if instruction.opcode == "dynamic-update-slice":
            return 2 * num_bytes(self._shape(computation, instruction.operands[1]))
        read = self._operand_bytes(computation, instruction)
        written = num_bytes(instruction.shape)
        fused = self._fused_instructions(instruction)
        if fused:
            root = next(i for i in fused.values() if i.is_root)
            parameters = [i for i in fused.values() if i.opcode == "parameter"]
            parameters.sort(key=lambda i: int(i.operands[0]))
            read = [
                min(size, _max_bytes_read(parameter, fused))
                for size, parameter in zip(read, parameters, strict=False)
            ]
            if root.opcode == "dynamic-update-slice":
                written = num_bytes(fused[root.operands[1]].shape)
        return sum(read) + written

    def _with_fusions(self, computation):
        for instruction in self._computations[computation].values():
            yield instruction
            yield from (self._fused_instructions(instruction) or {}).values()

    def _fused_instructions(self, instruction):
        """Returns the instructions inside a fusion; None for other instructions."""
        if instruction.opcode not in ("fusion", "async-start", "custom-call"):
            return None
        called = _CALLED.search(instruction.attributes)
        return self._computations.get(called[1]) if called else None

    def _shape(self, computation, name):
        return self._computations[computation][name].shape

    def _operand_bytes(self, computation, instruction):
        instructions = self._computations[computation]
        operands = [name for name in instruction.operands if name in instructions]
        return [num_bytes(instructions[name].shape) for name in operands]

    def _group_size(self, attributes):
        """Returns the number of devices per group: 2 for {{0,1},{2,3}}, 4 for [2,4]<=[8]."""
        listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
        if listed:
            return listed[1].count(",") + 1
        shaped = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
        return int(shaped[1]) if shaped else self._num_devices


def _called_computations(instruction):
    """Returns [(computation, number of runs)] for the computations that an instruction calls.

    The result is [] for a fusion.
    """
    if instruction.opcode == "while":
        trip_count = _TRIP_COUNT.search(instruction.attributes)
        body = _BODY.search(instruction.attributes)[1]
        return [(body, int(trip_count[1]) if trip_count else 1)]
    if instruction.opcode == "conditional":
        branches = _BRANCHES.findall(instruction.attributes)
        names = [name for groups in branches for group in groups for name in group.split(",")]
        return [(name.strip().lstrip("%"), 1) for name in names if name]
    if instruction.opcode == "call":
        return [(_CALLED.search(instruction.attributes)[1], 1)]
    return []


def _max_bytes_read(parameter, fused):
    """Returns the maximum number of bytes that a fusion reads of one of its parameters."""
    users = [i for i in fused.values() if parameter.name in i.operands]
    slicing = ("dynamic-slice", "gather", "dynamic-update-slice")
    if not users or any(i.opcode not in slicing or i.operands[0] != parameter.name for i in users):
        return num_bytes(parameter.shape)
    # An array is not read if it is updated in place.
    return sum(num_bytes(i.shape) for i in users if i.opcode != "dynamic-update-slice")


def _result_type(instruction):
    """Returns the type of the result of a collective, without the types of its operands."""
    if instruction.opcode not in ("all-gather-start", "collective-permute-start"):
        return instruction.shape
    arrays = [match[0] for match in ARRAY.finditer(instruction.shape)]
    num_operands = len(instruction.operands)
    return " ".join(arrays[num_operands : 2 * num_operands])
