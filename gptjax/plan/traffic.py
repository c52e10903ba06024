"""How many bytes a compiled program moves between a device and its main memory, from its scheduled instructions.

Every instruction reads its operands and writes its result once; what a fusion only slices or updates in place counts
its slice; what lives in another memory (a TPU's vector memory) counts nothing. Caches of GPUs are left out.
"""

from collections.abc import Sequence

from gptjax.plan.hlo import Array, Computation, Instruction, Module, num_bytes

_NOTHING = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"),
    *(
        "while",
        "conditional",
        "call",
        "call-start",
        "async-start",
        "after-all",
        "add-dependency",
        "opt-barrier",
        "domain",
    ),
}
_SLICES = ("dynamic-slice", "slice", "gather")


def hbm_bytes(module: Module) -> int:
    """Returns the bytes read and written in a step."""
    return sum(_moved(module, computation, i) * times for computation, i, times in module.executed())


def _moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in _NOTHING or opcode.endswith(("-done", "-update")):
        return 0
    if opcode in ("fusion", "fusion-start"):
        return _fusion(module, computation, instruction)
    if opcode in ("send", "recv"):
        return _main(instruction.result)
    if opcode in _SLICES:
        return 2 * _main(instruction.result)
    if opcode == "dynamic-update-slice":
        return 2 * _main(computation[instruction.operands[1]].result)
    read = sum(_main(computation[operand].result) for operand in instruction.operands)
    if opcode == "copy-start":  # its result names the copy first, then what it reads
        return read + _main(instruction.result[:1])
    if opcode.endswith("-start") and _main(instruction.result) > read:  # what it reads, and what it writes
        return _main(instruction.result)
    return read + _main(instruction.result)


def _fusion(module: Module, computation: Computation, fusion: Instruction) -> int:
    inside = module.computations[fusion.called("calls")[0]]
    total = 0
    for name, parameter in zip(fusion.operands, _parameters(inside), strict=True):
        if _main(computation[name].result):
            total += _read(module, inside, parameter)
    root = next(instruction for instruction in inside.values() if instruction.is_root)
    results = root.operands if root.opcode == "tuple" else (root.name,)
    arrays = fusion.result
    if fusion.opcode == "fusion-start":  # its result names what it reads first
        arrays = arrays[sum(len(computation[operand].result) for operand in fusion.operands) :]
    for name, array in zip(results, arrays, strict=False):
        if array.space == 0:
            total += _written(module, inside, name)
    return total


def _parameters(computation: Computation) -> list[str]:
    found = [instruction for instruction in computation.values() if instruction.opcode == "parameter"]
    return [instruction.name for instruction in sorted(found, key=lambda instruction: int(instruction.operands[0]))]


def _read(module: Module, inside: Computation, name: str) -> int:
    """Returns how much of a value its users in a fusion look at."""
    whole, total = num_bytes(inside[name].result), 0
    for user in inside.values():
        if user.opcode == "parameter" or name not in user.operands:
            continue
        if user.opcode in _SLICES and user.operands[0] == name:
            total += num_bytes(user.result)
        elif user.opcode == "bitcast":
            total += _read(module, inside, user.name)
        elif user.opcode == "fusion":
            nested = module.computations[user.called("calls")[0]]
            pairs = zip(user.operands, _parameters(nested), strict=True)
            total += sum(_read(module, nested, parameter) for operand, parameter in pairs if operand == name)
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
            return whole
    return min(total, whole)


def _written(module: Module, inside: Computation, name: str) -> int:
    """Returns how much of a result a fusion writes."""
    result = inside[name]
    if result.opcode == "dynamic-update-slice":
        return num_bytes(inside[result.operands[1]].result)
    if result.opcode == "bitcast" and inside[result.operands[0]].opcode != "parameter":
        return _written(module, inside, result.operands[0])
    if result.opcode == "fusion":
        nested = module.computations[result.called("calls")[0]]
        root = next(instruction for instruction in nested.values() if instruction.is_root)
        if root.opcode != "tuple":
            return _written(module, nested, root.name)
    return num_bytes(result.result)


def _main(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)
