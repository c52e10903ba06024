"""Plans in words, for people; what is measured, what is counted and what is arithmetic is said below each."""

from collections.abc import Mapping, Sequence

from gptjax.chips import GIB
from gptjax.plan.forecast import Forecast
from gptjax.sharding import in_words

Row = tuple[str, str]


def table(plan: Forecast) -> list[str]:
    """Returns the lines of a plan."""
    groups = (_fleet(plan), _memory(plan), _work(plan), _time(plan))
    lines = [line for group in groups for line in (*(f"{name:<20}{value}" for name, value in group), "")]
    return [*lines, *_honesty(plan)]


def _fleet(plan: Forecast) -> list[Row]:
    slices = f"{plan.slices} slices of " if plan.slices > 1 else ""
    halves = f", {plan.num_devices:,} devices" if plan.num_devices != plan.num_chips else ""
    return [
        ("parameters", f"{plan.num_params:,}"),
        ("fleet", f"{slices}{plan.topology}, {plan.num_chips:,} chips{halves}"),
        ("mesh", f"{in_words(plan.mesh)}, rules {plan.rules}, remat {plan.remat}"),
        ("batch", f"{plan.batch_size:,} sequences, {plan.tokens_per_step:,} tokens"),
        ("  per device", f"{plan.sequences_per_device} sequences at a time, {plan.accumulation} times a step"),
    ]


def _memory(plan: Forecast) -> list[Row]:
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    rows = [
        ("memory at the peak", f"{gib(plan.peak_hbm_bytes)} of {gib(plan.hbm_capacity_bytes)}: {verdict}"),
        ("  parameters", gib(plan.param_bytes)),
        ("  optimiser", gib(plan.optimizer_bytes)),
    ]
    if plan.temp_bytes is not None:
        rows.append(("  temporaries", f"{gib(plan.temp_bytes)} (gradients are {gib(plan.gradient_bytes)})"))
    return rows


def _work(plan: Forecast) -> list[Row]:
    share = plan.flops_per_step / plan.model_flops_per_step
    rows = [
        ("model FLOPs", f"{plan.model_flops_per_step:.4g} a step"),
        ("FLOPs run", f"{plan.flops_per_step:.4g}, {share:.1%} of that: some twice, some that a mask hides not at all"),
    ]
    if plan.wire_bytes_per_chip is None or plan.wire_bytes_by_axis is None or plan.hbm_bytes_per_chip is None:
        return rows
    rows.append(("wires", f"{gib(sum(plan.wire_bytes_per_chip.values()))} a device and step"))
    rows += [(f"  {kind}", gib(moved)) for kind, moved in _largest(plan.wire_bytes_per_chip)]
    rows += [(f"  over {axes}", gib(moved)) for axes, moved in _largest(plan.wire_bytes_by_axis)]
    return [*rows, ("memory traffic", f"{gib(plan.hbm_bytes_per_chip)} a device and step")]


def _time(plan: Forecast) -> list[Row]:
    if plan.bound is None:
        return [("time", "unknown: the compiler makes no program that does not fit")]
    seconds = plan.step_seconds[plan.bound]
    parts = ", ".join(f"{name} {value:.3g} s" for name, value in plan.step_seconds.items())
    return [
        ("step", f"at least {seconds:.3g} s, bound by {plan.bound}"),
        ("  of which", parts),
        ("MFU", f"at most {plan.mfu_bound:.1%}"),
        ("speed", f"at most {plan.tokens_per_second:,.0f} tokens/s"),
        ("run", f"{plan.total_tokens:,} tokens: at least {plan.days:,.2f} days, {plan.chip_hours:,.0f} chip-hours"),
    ]


def _honesty(plan: Forecast) -> list[str]:
    lines = [
        f"Measured by compiling the real step ({plan.compile_seconds:.0f} s, jax {plan.jax_version}): memory, which "
        "collectives there are.",
        "Counted: FLOPs of matrix products in the traced step; bytes on wires and to memory in the compiled program.",
        "Arithmetic: all times, at published speeds that no program reaches, with everything overlapped.",
        "Neither: input, checkpoints, evaluation, failures.",
        f"Figures of the chip: {plan.chip_source}.",
    ]
    if plan.loops_of_unknown_length:
        lines.append(f"note: {plan.loops_of_unknown_length} loops of unknown length are counted once")
    return lines


def summary(plan: Forecast) -> str:
    """Returns what came of a candidate, in a few words."""
    memory = f"{gib(plan.peak_hbm_bytes)}"
    if not plan.fits:
        return f"{memory}, does not fit"
    assert plan.bound is not None
    assert plan.wire_bytes_per_chip is not None
    wires = gib(sum(plan.wire_bytes_per_chip.values()))
    return (
        f"{memory}, {wires} on wires, {plan.step_seconds[plan.bound]:.3g} s by {plan.bound}, MFU {plan.mfu_bound:.1%}"
    )


def best(plans: Sequence[Forecast], words: str, count: int = 5) -> list[str]:
    """Returns the first few of sorted plans, if they fit, each with the flags that choose it."""
    fitting = [plan for plan in plans if plan.fits][:count]
    if not fitting:
        return ["nothing that was tried fits; take more chips, or shorter sequences"]
    lines = [f"the best of {len(plans)} that were compiled, by {words}:"]
    for plan in fitting:
        sizes = " ".join(f"--config.mesh.{axis}={size}" for axis, size in plan.mesh.items())
        sequences = f"--config.train.max_sequences_per_device={plan.sequences_per_device}"
        lines += [
            f"  {summary(plan)}",
            f"    {sizes}",
            f"    --config.mesh.rules={plan.rules} --config.model.remat={plan.remat} {sequences}",
        ]
    return lines


def _largest(values: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((name, value) for name, value in values.items() if value), key=lambda pair: -pair[1])


def gib(num_bytes: float) -> str:
    """Formats a size."""
    return f"{num_bytes / GIB:,.2f} GiB" if num_bytes >= GIB / 100 else f"{num_bytes / 2**20:,.2f} MiB"
