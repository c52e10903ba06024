"""Continues prompts with the model of a workdir.

  python -m gptjax.sample --workdir=runs/small --prompt="def main("

Flags -> rules -> parameters -> text; nothing else.
"""

import sys
from collections.abc import Sequence

from gptjax import flags
from gptjax.sample.config import SampleConfig
from gptjax.types import UserError

HELP = """\
usage: python -m gptjax.sample --workdir=DIR [--prompt=TEXT ...] [--temperature=1] ...

Continues each prompt with the model that was trained in DIR, and prints prompt and continuation.

  --workdir=DIR             what was trained, such as runs/small
  --prompt=TEXT             what to continue (repeatable); - is standard input, none starts afresh
  --max_tokens=256          at most so many new tokens
  --stop=TEXT               ends the continuation before this text (repeatable)
  --temperature=1           below 1 is safer, above 1 bolder, 0 always takes the likeliest token
  --top_k=N                 only the N likeliest tokens
  --top_p=P                 only the likeliest tokens that together have probability P
  --min_p=P                 only tokens at least P times as likely as the likeliest
  --repetition_penalty=1    above 1 makes tokens of the text so far less likely
  --num_beams=1             above 1: beam search for the likeliest text, without the rules above
  --length_penalty=1        beam search ranks texts by log-probability / length ** penalty
  --seed=0                  the same seed gives the same text, another seed another
  --step=latest             which checkpoint: latest, best (by validation loss) or a number
  --help                    this text

The text appears while it is made, on a terminal and with one prompt; otherwise whole.
Exit codes: 0 done, 2 a mistake that you can mend, 1 a bug, 130 and 143 stopped by a signal.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    parser = flags.Parser(add_help=False)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--stop", action="append", default=[])
    parser.add_argument("--max_tokens", type=int, default=SampleConfig.max_tokens)
    parser.add_argument("--num_beams", type=int, default=SampleConfig.num_beams)
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty"):
        parser.add_argument(f"--{name}", type=float, default=getattr(SampleConfig, name))
    parser.add_argument("--top_k", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=checkpoint, default="latest")
    args = parser.parse(argv)
    cfg = SampleConfig(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        num_beams=args.num_beams,
        length_penalty=args.length_penalty,
        max_tokens=args.max_tokens,
        stop=tuple(args.stop),
    )
    problems = [f"--{problem}" for problem in cfg.validate()]
    if not 0 <= args.seed < 2**32:
        problems.append(f"--seed={args.seed} is not between 0 and {2**32 - 1}")
    if args.prompt.count("-") > 1:
        problems.append("--prompt=- stands twice; standard input is read once")
    if problems:
        raise UserError("\n".join(problems))
    if ignored := cfg.ignored():
        print(f"note: --num_beams={cfg.num_beams} leaves out {', '.join(f'--{n}' for n in ignored)}", file=sys.stderr)
    prompts = [read_stdin() if prompt == "-" else prompt for prompt in args.prompt or [""]]

    from gptjax import distributed

    distributed.start()

    from gptjax import run
    from gptjax.sample.generate import stream_text

    model_cfg, params, tokenizer = run.load_for_inference(args.workdir, args.step)
    for prompt in prompts:
        if (length := len(tokenizer.encode(prompt))) > model_cfg.max_context:
            print(
                f"note: a prompt has {length} tokens and the model sees {model_cfg.max_context}: only its end counts",
                file=sys.stderr,
            )
    pieces = stream_text(model_cfg, params, tokenizer, prompts, cfg, args.seed)
    if len(prompts) == 1 and sys.stdout.isatty():
        print(prompts[0], end="", flush=True)
        for (piece,) in pieces:
            print(piece, end="", flush=True)
        print()
        return 0
    for number, (prompt, *continuation) in enumerate(zip(prompts, *pieces, strict=True), 1):
        if len(prompts) > 1:
            print(f"=== prompt {number} of {len(prompts)}")
        print(prompt + "".join(continuation))
    sys.stdout.flush()  # here, where a reader that has left is no error yet
    return 0


def checkpoint(text: str) -> str | int:
    """Reads the value of --step."""
    return text if text in ("latest", "best") else int(text)


def read_stdin() -> str:
    """Returns all of standard input; raises UserError where it is no text."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is no UTF-8 text ({error.reason} at byte {error.start})") from None


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
