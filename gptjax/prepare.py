"""Turns text into token shards that training reads: files, globs, folders, .gz, .zst, .jsonl, .parquet.

  python -m gptjax.prepare --input='texts/**/*.md' --output=prepared --tokenizer=bpe:8192

Flags -> text -> folder; nothing else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from gptjax import flags
from gptjax.registry import Choice, did_you_mean
from gptjax.types import UserError

HELP = """\
usage: python -m gptjax.prepare --input=PATH [--input=PATH ...] --output=DIR [--tokenizer=byte] ...

Turns text into token shards; train on them with --config.data.path=DIR. Interrupted, it goes on when run again.

  --input=PATH          a file, a glob (** is any depth) or a folder; repeatable, or several after one --input
                        .gz and .zst are unpacked; a row of .jsonl or .parquet is a document, and so is any other file
  --output=DIR          where token shards, tokenizer and manifest.json go
  --tokenizer=byte      byte, char, bpe, bpe:VOCAB_SIZE (trained on the training split),
                        or a path: tokenizer.json, a folder with GPT-2's encoder.json and vocab.bpe,
                        or a run or a prepared folder, whose tokenizer is taken
  --field=text          where the text stands in a row of .jsonl and .parquet
  --valid_fraction=0.1  part for validation: of the characters of one file, or of several files, by their names' hash
  --workers=N           processes (default: one for each core; one alone for little text); changes no result
  --shard_tokens=N      tokens in a shard (default: 67,108,864)
  --help                this text

Exit codes: 0 done, 2 a mistake that you can mend, 1 a bug, 130 and 143 stopped by Ctrl-C or SIGTERM.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    parser = flags.Parser(add_help=False)
    parser.add_argument("--input", action="extend", nargs="+", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--tokenizer", default="byte")
    parser.add_argument("--field", default="text")
    parser.add_argument("--valid_fraction", type=float, default=0.1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--shard_tokens", type=int)
    args = parser.parse(argv)
    problems = []
    if not 0 < args.valid_fraction < 1:
        problems.append(f"--valid_fraction={args.valid_fraction} is not between 0 and 1; 0.1 is usual")
    for name in ("workers", "shard_tokens"):
        if (value := getattr(args, name)) is not None and value < 1:
            problems.append(f"--{name}={value} is less than 1; leave it out for the default")
    if problems:
        raise UserError("\n".join(problems))

    from gptjax.data.console import Console
    from gptjax.data.prepare import SHARD_TOKENS, prepare
    from gptjax.data.split import Text
    from gptjax.data.text import expand

    output = Path(args.output).absolute()
    try:
        found = expand(args.input)
    except UserError as error:
        raise UserError(f"--input={error}") from None
    files = [file for file in found if not file.is_relative_to(output)] or found
    more = f" and {len(args.input) - 1} more" if len(args.input) > 1 else ""
    prepare(
        Text(f"{args.input[0]}{more}", files, args.valid_fraction, args.field),
        tokenizer_choice(args.tokenizer),
        Path(args.output),
        Console(),
        workers=args.workers,
        shard_tokens=args.shard_tokens or SHARD_TOKENS,
    )
    return 0


def tokenizer_choice(text: str) -> Choice:
    """Reads the value of --tokenizer; raises UserError where it names neither a tokenizer nor a path."""
    from gptjax.data.tokenizer import CONFIG, TOKENIZERS

    name, _, vocab_size = text.partition(":")
    if text in TOKENIZERS:
        return Choice(text)
    if name == "bpe" and vocab_size.isdecimal():
        return Choice("bpe", {"vocab_size": int(vocab_size)})
    if any((folder / CONFIG).is_file() for folder in (Path(text), Path(text, "tokenizer"))):
        return Choice("saved", {"path": text})
    if Path(text).exists():
        return Choice("bpe", {"path": text})
    raise UserError(f"--tokenizer={text} is neither a tokenizer nor a path; {did_you_mean(name, TOKENIZERS)}")


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
