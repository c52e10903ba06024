"""What a training step needs and takes on a fleet: measured by the compiler, then multiplied out. Prints nothing."""

import dataclasses

import jax

from gptjax import config
from gptjax.config import ExperimentConfig
from gptjax.data.tokenizer import ByteTokenizer
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.plan import collectives
from gptjax.plan.compiler import Compiled, compile_step
from gptjax.plan.roofline import interconnect_seconds
from gptjax.plan.topology import Fleet
from gptjax.plan.traffic import hbm_bytes
from gptjax.program import Program, build_program
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting
from gptjax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """The figures of a plan, as they stand in its JSON; bytes are one device's.

    Where the compiler refused the step, because it does not fit, what would be read from its program is None.
    """

    # what is planned
    topology: str
    slices: int
    num_chips: int
    num_devices: int
    num_params: int
    mesh: dict[str, int]
    rules: str
    remat: str
    batch_size: int
    accumulation: int
    sequences_per_device: int
    tokens_per_step: int
    total_tokens: int
    # memory, by the compiler; parameters, optimiser and gradients by how they are sharded
    fits: bool
    peak_hbm_bytes: int
    hbm_capacity_bytes: int
    argument_bytes: int
    temp_bytes: int | None
    param_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    # work, counted in the traced step and in the compiled program
    flops_per_step: int
    model_flops_per_step: int
    wire_bytes_per_chip: dict[str, int] | None = None
    wire_bytes_by_axis: dict[str, int] | None = None
    hbm_bytes_per_chip: int | None = None
    loops_of_unknown_length: int = 0
    # time, by arithmetic
    step_seconds: dict[str, float | None]
    interconnect_seconds_by_axis: dict[str, float] | None = None
    bound: str | None = None
    mfu_bound: float | None = None
    tokens_per_second: float | None = None
    days: float | None = None
    chip_hours: float | None = None
    chip_source: str
    compile_seconds: float
    jax_version: str = jax.__version__


def forecast(cfg: ExperimentConfig, fleet: Fleet, source: str = "the config") -> Forecast:
    """Compiles the step of a config for a fleet and works out its figures; raises UserError where they do not match."""
    config.validate(cfg, len(fleet.devices), source)
    tasks = build_tasks(cfg.tasks, Setting("", num_chunks=cfg.train.loss_chunks))
    program = build_program(cfg, sized_without_text(cfg), tasks, fleet.devices)
    compiled = compile_step(program)
    plan = _without_times(program, fleet, compiled)
    return plan if compiled.module is None else _timed(plan, program, fleet, compiled)


def sized_without_text(cfg: ExperimentConfig) -> ModelConfig:
    """Returns the model config with its vocabulary; raises UserError where only a text could tell it."""
    size = cfg.model.vocab_size
    if size is None and cfg.data.tokenizer.name == "byte":
        size = ByteTokenizer.vocab_size
    if size is None:
        raise UserError(
            f"model.vocab_size=None takes that of the {cfg.data.tokenizer.name} tokenizer, which only its text can "
            f"tell; set --config.model.vocab_size=NUMBER"
        )
    return dataclasses.replace(cfg.model, vocab_size=size).resolve()


def _without_times(program: Program, fleet: Fleet, compiled: Compiled) -> Forecast:
    cfg, chip, rows = program.cfg, fleet.chip, program.layout.parts("act_batch")
    return Forecast(
        topology=fleet.name,
        slices=fleet.slices,
        num_chips=fleet.num_chips,
        num_devices=len(fleet.devices),
        num_params=accounting.num_params(program.model),
        mesh=dict(program.layout.mesh.shape),
        rules=cfg.mesh.rules,
        remat=cfg.model.remat,
        batch_size=cfg.data.batch_size,
        accumulation=program.accumulation,
        sequences_per_device=cfg.data.batch_size // rows // program.accumulation,
        tokens_per_step=program.tokens_per_step,
        total_tokens=program.total_tokens,
        fits=compiled.module is not None and compiled.peak_bytes <= chip.hbm_bytes,
        peak_hbm_bytes=compiled.peak_bytes,
        hbm_capacity_bytes=int(chip.hbm_bytes),
        argument_bytes=compiled.argument_bytes,
        temp_bytes=compiled.temp_bytes,
        param_bytes=compiled.param_bytes,
        optimizer_bytes=compiled.optimizer_bytes,
        gradient_bytes=round(compiled.param_bytes * trained_share(program)),
        flops_per_step=compiled.flops,
        model_flops_per_step=int(program.flops_per_step),
        step_seconds={
            "compute": compiled.flops / (len(fleet.devices) * chip.flops),
            "hbm": None,
            "interconnect": None,
        },
        chip_source=chip.source,
        compile_seconds=compiled.seconds,
    )


def trained_share(program: Program) -> float:
    """Returns how much of the model has gradients: 0 to 1."""
    return accounting.num_params(program.model, program.trained) / accounting.num_params(program.model)


def _timed(plan: Forecast, program: Program, fleet: Fleet, compiled: Compiled) -> Forecast:
    assert compiled.module is not None
    mesh, chip = program.layout.mesh, fleet.chip
    transfers = collectives.transfers(compiled.module, mesh.shape, fleet.slices)
    by_axis = interconnect_seconds(fleet, list(mesh.devices.flat), transfers)
    traffic = hbm_bytes(compiled.module)
    compute = compiled.flops / (len(fleet.devices) * chip.flops)
    seconds = {"compute": compute, "hbm": traffic / chip.hbm_bandwidth, "interconnect": sum(by_axis.values())}
    bound = max(seconds, key=seconds.__getitem__)
    days = plan.total_tokens / plan.tokens_per_step * seconds[bound] / 86_400
    return dataclasses.replace(
        plan,
        wire_bytes_per_chip=collectives.by_kind(transfers),
        wire_bytes_by_axis=collectives.by_axes(transfers),
        hbm_bytes_per_chip=traffic,
        loops_of_unknown_length=compiled.module.loops_of_unknown_length,
        step_seconds=dict(seconds),
        interconnect_seconds_by_axis=by_axis,
        bound=bound,
        mfu_bound=plan.model_flops_per_step / (len(fleet.devices) * chip.flops * seconds[bound]),
        tokens_per_second=plan.tokens_per_step / seconds[bound],
        days=days,
        chip_hours=days * 24 * fleet.num_chips,
    )
