"""Statistics of a compiled GPU program, from the text of XLA.

    program = Program.parse(text)
    program.launches, program.bytes, program.count("scatter")

The text is that of the optimized HLO module, after fusion and layout
assignment. An instruction of its entry computation is therefore a kernel or a
library call.
"""

import collections
import dataclasses
import re

_BITS = re.compile(r"(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%([\w.-]+) = ")
_OPCODE = re.compile(r" ([a-z][a-z\d-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")

# Instructions that launch nothing.
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "parameter",
    "tuple",
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: Name without the percent sign.
      shape: Shape of the result; a tuple in parentheses.
      opcode: Operation, such as fusion.
      operands: Names of the operands.
      rest: Attributes after the operands.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


@dataclasses.dataclass(frozen=True)
class Program:
    """An optimized program.

    Attributes:
      entry: Instructions of the entry computation.
      computations: Instructions of all computations, by name.
    """

    entry: list[Instruction]
    computations: dict[str, list[Instruction]]

    @classmethod
    def parse(cls, text: str) -> "Program":
        """Reads the text of an HLO module.

        Raises:
          ValueError: The text has no entry computation.
        """
        computations: dict[str, list[Instruction]] = {}
        entry = current = None
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = computations.setdefault(header.group(2), [])
                if header.group(1):
                    entry = current
            elif current is not None and line.startswith(" "):
                current.append(_instruction(line.strip()))
        if not entry:
            raise ValueError("no entry computation")
        return cls(entry, computations)

    @property
    def kernels(self) -> list[Instruction]:
        """Instructions of the entry computation that launch a kernel."""
        return [i for i in self.entry if i.opcode not in _FREE]

    @property
    def launches(self) -> int:
        """Number of kernels and library calls."""
        return len(self.kernels)

    @property
    def bytes(self) -> int:
        """Bytes of the operands and results of all kernels.

        The memory traffic if each kernel reads its operands once and no result
        stays in the cache.
        """
        shapes = {i.name: i.shape for i in self.entry}
        return sum(
            size(i.shape) + sum(size(shapes[o]) for o in i.operands)
            for i in self.kernels
        )

    def count(self, opcode: str) -> int:
        """Returns the number of instructions of an opcode in the program."""
        return self._counts()[opcode]

    @property
    def convolutions(self) -> list[str]:
        """Type and layout of each convolution, such as bf16 b01f."""
        return [
            f"{i.shape.lstrip('(').partition('[')[0]} {_layout(i)}"
            for i in self.kernels
            if "__cudnn$conv" in i.rest
        ]

    def _counts(self) -> collections.Counter[str]:
        return collections.Counter(
            i.opcode for c in self.computations.values() for i in c
        )


def size(shape: str) -> int:
    """Returns the bytes of a shape, or of all shapes in a tuple."""
    total = 0
    for kind, dimensions in _BITS.findall(shape):
        digits = re.sub(r"\D", "", kind)
        elements = 1
        for dimension in filter(None, dimensions.split(",")):
            elements *= int(dimension)
        total += elements * (int(digits) // 8 if digits else 1)
    return total


def _layout(convolution: Instruction) -> str:
    """Returns the layout of the images, such as b01f, which is NHWC."""
    labels = re.search(r"dim_labels=([a-z\d]+)_", convolution.rest)
    return labels.group(1) if labels else ""


def _instruction(line: str) -> Instruction:
    named = _INSTRUCTION.match(line)
    if not named:
        if line == "}":
            return Instruction("", "", "", (), "")
        raise ValueError(f"not an instruction: {line[:80]}")
    rest = line[named.end() :]
    # The opcode is the first name between a space and a parenthesis. A tuple
    # shape has no name before its parenthesis.
    opcode = _OPCODE.search(" " + rest if rest[0] != "(" else rest)
    assert opcode, line
    offset = 0 if rest[0] == "(" else 1
    shape = rest[: max(opcode.start() - offset, 0)]
    depth, at = 1, opcode.end() - offset
    start = at
    while depth:
        depth += {"(": 1, ")": -1}.get(rest[at], 0)
        at += 1
    operands = rest[start : at - 1]
    kind = opcode.group(1)
    names = () if kind in {"constant", "parameter"} else _NAME.findall(operands)
    return Instruction(named.group(1), shape, kind, tuple(names), rest[at:])
