# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write man pages and completions below a prefix: python -m contrib.packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from contrib.packages.man import pages
from mminspect.cli.usage import main

VARIABLE = "_MMINSPECT_COMPLETE"
COMPLETIONS = {
    "bash": "share/bash-completion/completions/mminspect",
    "zsh": "share/zsh/vendor-completions/_mminspect",
    "fish": "share/fish/vendor_completions.d/mminspect.fish",
}


def completions() -> Iterator[tuple[str, str]]:
    """Return where each shell looks for its completion, and the script."""
    for shell, place in COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        # click asks bash for its version when it makes the script; any that packages run on is new enough.
        kind_of = type(kind.__name__, (kind,), {"_check_version": staticmethod(lambda: None)})
        yield place, kind_of(main, {}, "mminspect", VARIABLE).source().rstrip("\n") + "\n"


@click.command()
@click.argument("prefix", type=click.Path(file_okay=False, path_type=Path))
def write(prefix: Path) -> None:
    """Write man pages and completions below PREFIX, such as /usr."""
    files = [*((f"share/man/man1/{name}", text) for name, text in pages()), *completions()]
    for place, text in files:
        path = prefix / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    click.echo(f"{len(files)} files below {prefix}", err=True)


if __name__ == "__main__":
    write()
