"""Reads the text of a compiled program: computations, instructions, and how often each runs. Knows no collectives."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_REFERENCE = re.compile(r"%([\w.-]+)")


class Array(NamedTuple):
    """The shape of one array of a result."""

    dtype: str
    dims: tuple[int, ...]
    space: int
    """Memory space: 0 is the device's main memory."""

    @property
    def bytes(self) -> int:
        """Size without padding."""
        bits = _BITS[self.dtype] if self.dtype in _BITS else int(re.findall(r"\d+", self.dtype)[0])
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    result: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str
    """What follows the operands: attributes, or a constant's value before them."""
    is_root: bool

    def called(self, *attributes: str) -> list[str]:
        """Returns the computations that these attributes name."""
        pattern = rf"\b(?:{'|'.join(attributes)})=(\{{[^}}]*\}}|%[\w.-]+)"
        return [name for found in re.findall(pattern, self.text) for name in _REFERENCE.findall(found)]


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program of one device."""

    computations: Mapping[str, Computation]
    entry: str

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Gives every instruction that runs, with its computation and the number of times; fusions stay closed.

        Of a conditional the longer branch is taken.
        """
        yield from self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        computation = self.computations[name]
        for instruction in computation.values():
            yield computation, instruction, times
            if instruction.opcode == "while":
                for body in instruction.called("body", "condition"):
                    yield from self._executed(body, times * (self.trip_count(instruction) or 1))
            elif instruction.opcode == "conditional":
                branches = instruction.called("branch_computations", "true_computation", "false_computation")
                yield from self._executed(max(branches, key=self._length), times)
            elif instruction.opcode in ("call", "call-start", "async-start"):
                for body in instruction.called("to_apply", "calls"):
                    yield from self._executed(body, times)

    def _length(self, name: str) -> int:
        return sum(1 for _ in self._executed(name, 1))

    @functools.cached_property
    def loops_of_unknown_length(self) -> int:
        """Loops that are counted once, for want of a number of iterations."""
        return sum(i.opcode == "while" and self.trip_count(i) is None for _, i, _ in self.executed())

    def trip_count(self, loop: Instruction) -> int | None:
        """Returns how often a loop runs: as the compiler notes it, or the bound that its condition compares with."""
        noted = re.search(r'known_trip_count[^\d]*"(\d+)"', loop.text)
        if noted:
            return int(noted[1])
        (condition,) = loop.called("condition")
        reached = [self.computations[condition]]
        for instruction in self.computations[condition].values():
            reached += [self.computations[name] for name in instruction.called("calls")]
        compares = [i for computation in reached for i in computation.values() if i.opcode == "compare"]
        constants = [
            int(i.text.split(")")[0])
            for computation in reached
            for i in computation.values()
            if i.opcode == "constant" and i.result[0].dtype in ("s32", "u32", "s64") and not i.result[0].dims
        ]
        counts_up = len(compares) == 1 and "direction=LT" in compares[0].text and len(constants) == 1
        return constants[0] if counts_up else None


def parse(text: str) -> Module:
    """Reads a module as `Compiled.as_text()` prints it."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = head[2]
            computations[current] = {}
            entry = current if head[1] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], line[found.end() :], bool(found[1]))
            computations[current][instruction.name] = instruction
    return Module(computations, entry)


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _closing(text, 0) if text[0] == "(" else text.index(" ")
    result, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    inside, after = rest[len(opcode) + 1 : close - 1], rest[close:]
    if opcode == "constant":
        return Instruction(name, arrays(result), opcode, (), f"{inside}){after}", is_root)
    if opcode == "parameter":
        return Instruction(name, arrays(result), opcode, (inside,), after, is_root)
    return Instruction(name, arrays(result), opcode, tuple(_REFERENCE.findall(inside)), after, is_root)


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    return len(text)


def arrays(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a result's type, tuples flattened."""
    return tuple(
        Array(dtype, tuple(map(int, dims.split(","))) if dims else (), _space(layout))
        for dtype, dims, layout in _ARRAY.findall(text)
    )


def _space(layout: str) -> int:
    found = re.search(r"S\((\d+)\)", layout)
    return int(found[1]) if found else 0


def num_bytes(arrays: Sequence[Array]) -> int:
    """Returns the size of some arrays."""
    return sum(array.bytes for array in arrays)
