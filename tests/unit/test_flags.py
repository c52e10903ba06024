"""Strict parsing, and mistakes turned into exit codes."""

import os
import signal

import pytest

from gptjax import flags
from gptjax.types import UserError


def parser():
    parser = flags.Parser(prog="x")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def test_parsing():
    args = parser().parse(["--workdir=a b", "--seed", "3"])
    assert (args.workdir, args.seed) == ("a b", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir"),
        (["--workdir=a", "--sed=3"], "there is no flag --sed; did you mean --seed"),
        (["--workdir=a", "--see=3"], "there is no flag --see"),
        (["--workdir=a", "b"], "unexpected argument 'b'"),
        (["--workdir=a", "--seed=x"], "invalid int value: 'x'"),
    ],
)
def test_mistakes_are_user_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        parser().parse(arguments)


def exit_code(main):
    before = signal.getsignal(signal.SIGTERM)
    try:
        return flags.exit_code(main, [])
    except SystemExit as error:
        return error.code
    finally:
        signal.signal(signal.SIGTERM, before)


def raises(error):
    def main(argv):
        raise error

    return main


def test_exit_codes(capsys):
    assert exit_code(lambda argv: 0) == 0
    assert exit_code(raises(UserError("no such file"))) == 2
    assert exit_code(raises(KeyboardInterrupt())) == 130
    assert exit_code(lambda argv: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert capsys.readouterr().err.startswith("error: no such file\n")


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(raises(ZeroDivisionError()))
