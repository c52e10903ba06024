"""A plan in words: the table for people. What is measured, what is counted and what is arithmetic is said beside it."""

from collections.abc import Mapping, Sequence

from gptjax.plan.forecast import GIB, Forecast


def table(plan: Forecast) -> list[str]:
    """Returns the lines of a plan."""
    rows = [*_fleet(plan), ("", ""), *_memory(plan), ("", ""), *_work(plan), ("", ""), *_time(plan)]
    return [f"{name:<14}{value}".rstrip() for name, value in rows] + ["", *_honesty(plan)]


def _fleet(plan: Forecast) -> list[tuple[str, str]]:
    slices = f"{plan.slices} slices of " if plan.slices > 1 else ""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    return [
        ("parameters", f"{plan.num_params:,}"),
        ("fleet", f"{slices}{plan.topology}, {plan.num_chips:,} chips"),
        ("mesh", f"{mesh}, rules {plan.rules}, remat {plan.remat}"),
        (
            "batch",
            f"{plan.batch_size:,} sequences, {plan.tokens_per_step:,} tokens: "
            f"{plan.accumulation} x {plan.sequences_per_device} a device and model copy",
        ),
    ]


def _memory(plan: Forecast) -> list[tuple[str, str]]:
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    rows = [
        ("memory", f"{gib(plan.peak_hbm_bytes)} of {gib(plan.hbm_capacity_bytes)} at the peak: {verdict}"),
        ("  parameters", gib(plan.param_bytes)),
        ("  optimiser", gib(plan.optimizer_bytes)),
    ]
    if plan.temp_bytes is not None:
        rows.append(("  temporaries", f"{gib(plan.temp_bytes)}, of which gradients {gib(plan.gradient_bytes)}"))
    return rows


def _work(plan: Forecast) -> list[tuple[str, str]]:
    again = plan.flops_per_step / plan.model_flops_per_step
    rows = [
        ("work", f"{plan.model_flops_per_step:.4g} model FLOPs a step; {plan.flops_per_step:.4g} ({again:.2f}x) run")
    ]
    if plan.wire_bytes_per_chip is None or plan.wire_bytes_by_axis is None or plan.hbm_bytes_per_chip is None:
        return rows
    rows.append(("wires", f"{gib(sum(plan.wire_bytes_per_chip.values()))} a device and step"))
    rows += [(f"  {kind}", gib(moved)) for kind, moved in _largest(plan.wire_bytes_per_chip)]
    rows += [(f"  over {axes}", gib(moved)) for axes, moved in _largest(plan.wire_bytes_by_axis)]
    rows.append(("HBM traffic", f"{gib(plan.hbm_bytes_per_chip)} a device and step"))
    return rows


def _time(plan: Forecast) -> list[tuple[str, str]]:
    if plan.seconds is None or plan.tokens_per_second is None or plan.days is None or plan.chip_hours is None:
        return [("time", "unknown: the compiler gives no program that does not fit")]
    parts = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in plan.step_seconds.items())
    return [
        ("step", f"at least {plan.seconds:.3g} s, bound by {plan.bound} ({parts})"),
        ("MFU", f"at most {plan.mfu_bound:.1%}"),
        ("speed", f"at most {plan.tokens_per_second:,.0f} tokens/s"),
        ("run", f"{plan.total_tokens:,} tokens in {plan.days:,.2f} days, {plan.chip_hours:,.0f} chip-hours, or more"),
    ]


def _honesty(plan: Forecast) -> list[str]:
    lines = [
        f"Measured: memory and collectives, by compiling the real step ({plan.compile_seconds:.0f} s, jax "
        f"{plan.jax_version}). Counted: FLOPs",
        "(in the traced step), wire and HBM bytes (in the compiled program, loops times their length). Arithmetic:",
        "times, at published speeds that no program reaches, everything overlapped. Neither: input, checkpoints, stalls.",
        f"Chip: {plan.chip_source}.",
    ]
    if plan.loops_of_unknown_length:
        lines.append(f"note: {plan.loops_of_unknown_length} loops of unknown length are counted once")
    return lines


def _largest(values: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(((name, value) for name, value in values.items() if value), key=lambda pair: -pair[1])


def gib(num_bytes: float) -> str:
    """Formats a size."""
    return f"{num_bytes / GIB:,.2f} GiB"
