"""The options of a run that are not its model, data or optimiser. Knows no jax."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How training is split over devices, how tasks are mixed and how often it speaks."""

    mixture_temperature: float = 1.0
    """Of several tasks each is taken weight x rows^(1/temperature) times: 1 is by size, inf evenly (1910.10683)."""
    log_every: int = dataclasses.field(default=10, metadata={"fingerprint": False})
    """A line of metrics every so many steps, and at the last."""
    max_sequences_per_device: int | None = dataclasses.field(default=None, metadata={"fingerprint": False})
    """Most sequences that a device takes at once; what is more becomes gradient accumulation. None: no limit."""

    loss_chunks: int = dataclasses.field(default=1, metadata={"fingerprint": False})
    """The loss is computed for so many parts of each sequence in turn, so that fewer logits are in memory at once."""

    watchdog_seconds: float | None = dataclasses.field(default=600.0, metadata={"fingerprint": False})
    """Where no step is done for so long, each process says in which stacks its threads are. None: never."""

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this"."""
        problems = []
        if self.watchdog_seconds is not None and not 0 < self.watchdog_seconds < float("inf"):
            problems.append(f"watchdog_seconds={self.watchdog_seconds} is no time; choose seconds above 0, or None")
        if not self.mixture_temperature > 0:
            problems.append(f"mixture_temperature={self.mixture_temperature} is not positive; 1 takes rows as they are")
        if self.loss_chunks < 1:
            problems.append(f"loss_chunks={self.loss_chunks} is less than 1; 1 takes each sequence whole")
        if self.log_every < 1:
            problems.append(f"log_every={self.log_every} is less than 1; choose a number of steps")
        if self.max_sequences_per_device is not None and self.max_sequences_per_device < 1:
            problems.append(
                f"max_sequences_per_device={self.max_sequences_per_device} is less than 1; None is no limit"
            )
        return problems

    def accumulation(self, batch_size: int, parts: int) -> int:
        """Returns into how many micro-batches a global batch is cut: the least that fits the devices.

        A micro-batch holds the same number of sequences in each of the batch's `parts`.
        """
        per_device = batch_size // parts
        limit = self.max_sequences_per_device or per_device
        return next(n for n in range(1, per_device + 1) if per_device % n == 0 and per_device // n <= limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How often, and on how much of the validation split, a run is evaluated."""

    every: int = 100
    """Steps between evaluations; there is one at the last step too."""
    num_windows: int | None = None
    """Only the first so many windows of the split; None is the whole split."""
    num_examples: int | None = None
    """Only the first so many examples of each task that has some; None is all of them."""
    seq_len: int | None = None
    """Length of the rows that are scored, up to model.seq_len, which None takes; short examples need no long rows."""
    batch_size: int | None = None
    """Sequences at a time; None takes the training batch. It changes the speed, not the result."""
    metric: str = "loss"
    """What the best checkpoint is best at: loss, or a metric of a task (accuracy), of several tasks (sst2/accuracy)."""
    patience: int | None = None
    """A run ends after so many evaluations in a row that found nothing better; None goes on to the last step."""
    by_position: bool = False
    """Also say how the loss falls with the position in the context: loss_by_position/1, /2, /4 ... /seq_len."""

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this"."""
        problems = []
        if self.every < 1:
            problems.append(f"every={self.every} is less than 1; choose a number of steps")
        for name in ("num_windows", "num_examples", "seq_len", "batch_size", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)} is less than 1; choose a positive number or None")
        return problems

    def gives_up(self, steps: int) -> bool:
        """Whether so many steps without anything better end a run."""
        return self.patience is not None and steps >= self.patience * self.every


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept, and what a new run starts from."""

    every: int = 100
    """Steps between checkpoints; there is one at the last step too."""
    keep: int = 2
    """The last so many are kept, and the best by evaluation.metric."""
    resume_from: str | None = None
    """Workdir of another run whose state (parameters, optimiser, place in the data) a new run continues."""
    init_from: str | None = None
    """Workdir of another run whose parameters alone a new run starts from."""

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this"."""
        problems = []
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)} is less than 1; choose a positive number")
        if self.resume_from is not None and self.init_from is not None:
            problems.append("resume_from and init_from are both set; keep one")
        return problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """A trace for TensorBoard's profiler."""

    steps: tuple[int, ...] = ()
    """First and last step to trace, as in --config.profile.steps=10,12; one number traces that step; empty is none."""

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this"."""
        steps = list(self.steps)
        if steps and not (len(steps) <= 2 and 1 <= steps[0] <= steps[-1]):
            return [f"steps={','.join(map(str, self.steps))} is no FIRST,LAST with 1 <= FIRST <= LAST"]
        return []
