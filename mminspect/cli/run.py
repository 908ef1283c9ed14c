# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the command line: errors become one line and an exit status."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import click

from mminspect import signals
from mminspect.cli import startup, status, usage
from mminspect.cli.output import discard, say
from mminspect.errors import MminspectError, Stopped, message_of
from mminspect.program.text import lines


def run(argv: tuple[str, ...] | None = None) -> NoReturn:
    """Run the command line; no exception but SystemExit leaves it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    startup.open_standard_files()
    signals.raise_stopped()
    signals.quit_on_bus_error()
    signals.quit_on_cpu_limit()
    startup.start_fast()
    try:
        result = usage.main.main(arguments, prog_name="mminspect", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        # Without arguments click shows help. Before click 8.2 that wasn't an exception.
        if type(e).__name__ == "NoArgsIsHelpError":
            e.show()
            sys.exit(e.exit_code)
        _die(_in_one_line(e), e.exit_code)
    except Stopped as e:
        signals.stopped()
        _die(str(e), e.status)
    except MminspectError as e:
        if debug:
            _show_traceback()
        _die(str(e))
    except MemoryError:
        _die("out of memory")
    except ImportError as e:
        if debug:
            _show_traceback()
        _die(f"a module can't be loaded, perhaps for lack of memory: {e}")
    except OSError as e:
        # Of what click prints by itself, such as help.
        discard(1)
        _die(f"{e.filename or 'the output'}: {e.strerror or e}")
    except Exception as e:
        if debug:
            _show_traceback()
        message = message_of(e) or type(e).__name__
        _die(f"{type(e).__name__}: {message} (--debug shows where; please report it)")


def _in_one_line(error: click.ClickException) -> str:
    """Say what is wrong and, of wrong usage, what helps."""
    text = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        # click ends its guesses with "?.".
        text = text.rstrip(".")
        text += "" if text.endswith("?") else "."
        text += f" Try '{error.ctx.command_path} --help' for help."
    return text


def _show_traceback() -> None:
    sys.stderr.write(lines(traceback.format_exc()))


def _die(message: str, code: int = status.FAILED) -> NoReturn:
    say(message)
    sys.exit(code)
