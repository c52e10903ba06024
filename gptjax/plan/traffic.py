"""How many bytes a compiled program moves between a device and its main memory, from its scheduled instructions.

Every instruction reads its operands and writes its result once; what a fusion only slices or updates in place counts
its slice; what lives in another memory (a TPU's vector memory) counts nothing. Caches of GPUs are left out.
"""

from collections.abc import Sequence

from gptjax.plan.hlo import Array, Computation, Instruction, Module

_NOTHING = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"),
    *("while", "conditional", "call", "async-start", "after-all", "add-dependency", "opt-barrier", "domain"),
}
_SLICES = ("dynamic-slice", "slice", "gather")


def hbm_bytes(module: Module) -> int:
    """Returns the bytes read and written in a step."""
    return sum(_moved(module, computation, i) * times for computation, i, times in module.executed())


def _moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in _NOTHING or opcode.endswith(("-done", "-update")):
        return 0
    if opcode == "fusion":
        (name,) = instruction.called("calls")
        return _fusion(module.computations[name], [computation[operand] for operand in instruction.operands])
    if opcode in _SLICES:
        return 2 * _main(instruction.result)
    if opcode == "dynamic-update-slice":
        return 2 * _main(computation[instruction.operands[1]].result)
    read = sum(_main(computation[operand].result) for operand in instruction.operands)
    if opcode.endswith("-start"):  # its result names operands and results: the first is the copy's
        return read + (_main(instruction.result[:1]) if opcode == "copy-start" else _started(instruction, read))
    return read + _main(instruction.result)


def _started(instruction: Instruction, read: int) -> int:
    """What an asynchronous collective writes: its result type holds what it reads as well."""
    total = _main(instruction.result)
    return total - read if total > read else total


def _fusion(inside: Computation, operands: Sequence[Instruction]) -> int:
    users: dict[str, list[Instruction]] = {}
    for instruction in inside.values():
        if instruction.opcode != "parameter":
            for operand in instruction.operands:
                users.setdefault(operand, []).append(instruction)
    total = 0
    for instruction in inside.values():
        if instruction.opcode == "parameter":
            total += _read(instruction, operands[int(instruction.operands[0])], users.get(instruction.name, []))
        if instruction.is_root:
            results = instruction.operands if instruction.opcode == "tuple" else (instruction.name,)
            total += sum(_written(inside, inside[name]) for name in results)
    return total


def _read(parameter: Instruction, operand: Instruction, users: Sequence[Instruction]) -> int:
    if not _main(operand.result):
        return 0
    if all(i.opcode in _SLICES and i.operands[0] == parameter.name for i in users):
        return sum(min(sum(a.bytes for a in i.result), _main(operand.result)) for i in users)
    if all(i.opcode == "dynamic-update-slice" and i.operands[0] == parameter.name for i in users):
        return 0
    return _main(operand.result)


def _written(inside: Computation, result: Instruction) -> int:
    while result.opcode in ("bitcast", "copy", "convert") and result.operands[0] in inside:
        if inside[result.operands[0]].opcode not in ("bitcast", "dynamic-update-slice"):
            break
        result = inside[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return min(_main(inside[result.operands[1]].result), _main(result.result))
    return _main(result.result)


def _main(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)
