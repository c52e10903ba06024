"""Continues prompts with the model of a workdir.

  python -m gptjax.sample --workdir=runs/small --prompt="def main("

Flags -> rules -> parameters -> text, or answers where it is a chat; nothing else.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gptjax import flags
from gptjax.sample.config import SampleConfig
from gptjax.types import UserError

if TYPE_CHECKING:
    from gptjax.data.chat import Message
    from gptjax.sample.answers import Assistant

HELP = """\
usage: python -m gptjax.sample --workdir=DIR [--prompt=TEXT ...] [--chat] [--temperature=1] ...

Continues each prompt with the model of DIR, or answers it with --chat.

  --workdir=DIR             what was trained or converted, such as runs/small
  --prompt=TEXT             what to continue (repeatable); - is standard input, none starts afresh
  --chat[=TEMPLATE]         prompts are a user's messages; answers alone are printed. Without any it
                            talks until Ctrl-D. TEMPLATE: chatml, alpaca, plain or Jinja's text
  --system=TEXT             what a chat begins with, instead of what the template says
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
  --step=latest             which checkpoint: latest, best (by evaluation.metric) or a number
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
    parser.add_argument("--step", type=flags.checkpoint, default="latest")
    parser.add_argument("--chat", nargs="?", const="")
    parser.add_argument("--system")
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
    if args.system is not None and args.chat is None:
        problems.append("--system belongs to a chat; add --chat, or leave it out")
    if args.prompt.count("-") > 1:
        problems.append("--prompt=- stands twice; standard input is read once")
    if problems:
        raise UserError("\n".join(problems))
    if ignored := cfg.ignored():
        print(f"note: --num_beams={cfg.num_beams} leaves out {', '.join(f'--{n}' for n in ignored)}", file=sys.stderr)
    default = [""] if args.chat is None else []
    prompts = [read_stdin() if prompt == "-" else prompt for prompt in args.prompt or default]

    from gptjax import distributed

    distributed.start()

    from gptjax import inference
    from gptjax.sample.generate import stream_text

    model_cfg, params, tokenizer, _ = inference.load(args.workdir, args.step)
    model_cfg.refuse_both_ways()
    if args.chat is not None:
        from gptjax.data.chat import Chat
        from gptjax.sample.answers import Assistant

        assistant = Assistant(model_cfg, params, tokenizer, Chat(tokenizer, args.chat or None), cfg, args.seed)
        beginning = [] if args.system is None else [{"role": "system", "content": args.system}]
        return answer(assistant, beginning, prompts) if prompts else talk(assistant, beginning)
    for prompt in prompts:
        note_length(len(tokenizer.encode(prompt)), model_cfg.max_context)
    show(prompts, stream_text(model_cfg, params, tokenizer, prompts, cfg, args.seed))
    return 0


def show(beginnings: Sequence[str], pieces: Iterator[list[str]]) -> None:
    """Prints texts from their beginnings on: one on a terminal while it grows, others when they are whole."""
    if len(beginnings) == 1 and sys.stdout.isatty():
        print(beginnings[0], end="", flush=True)
        for (piece,) in pieces:
            print(piece, end="", flush=True)
        print()
        return
    for number, (beginning, *continuation) in enumerate(zip(beginnings, *pieces, strict=True), 1):
        if len(beginnings) > 1:
            print(f"=== prompt {number} of {len(beginnings)}")
        print(beginning + "".join(continuation))
    sys.stdout.flush()  # here, where a reader that has left is no error yet


def answer(assistant: "Assistant", beginning: Sequence["Message"], prompts: Sequence[str]) -> int:
    """Prints the answer to each prompt, which are conversations of their own."""
    conversations = [[*beginning, {"role": "user", "content": prompt}] for prompt in prompts]
    for messages in conversations:
        note_length(assistant.num_tokens(messages), assistant.cfg.max_context)
    show([""] * len(prompts), assistant.stream(conversations))
    return 0


def talk(assistant: "Assistant", beginning: Sequence["Message"]) -> int:
    """Answers lines of standard input, which are one conversation, until there are no more."""
    messages = list(beginning)
    for line in lines():
        messages.append({"role": "user", "content": line})
        note_length(assistant.num_tokens(messages), assistant.cfg.max_context)
        said = []
        for (piece,) in assistant.stream([messages]):
            print(piece, end="", flush=True)
            said.append(piece)
        print(flush=True)
        messages.append({"role": "assistant", "content": "".join(said).rstrip()})
    return 0


def lines() -> Iterator[str]:
    """Yields the lines of standard input that say anything, after a sign on a terminal."""
    if not sys.stdin.isatty():
        yield from (line for line in read_stdin().splitlines() if line.strip())
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - keys edit a line, and bring back those before
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        if line.strip():
            yield line


def note_length(length: int, max_context: int) -> None:
    """Says so where a prompt is longer than what the model sees."""
    if length > max_context:
        print(
            f"note: a prompt has {length} tokens and the model sees {max_context}: only its end counts", file=sys.stderr
        )


def read_stdin() -> str:
    """Returns all of standard input; raises UserError where it is no text."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is no UTF-8 text ({error.reason} at byte {error.start})") from None


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
