# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands for strangers, comparing, and the command line without any guest."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from contrib.explore.__main__ import main
from contrib.explore.board import GIB, MIB, RAM
from contrib.explore.compare import compare, mail, read_corpus
from contrib.explore.judge import Sighting
from contrib.explore.layout import E820Entry, Initrd, dumps, loads, memory
from contrib.explore.outcome import Outcome
from contrib.explore.qemu import command, stock, why_not
from contrib.explore.report import CORPUS
from contrib.explore.tests.test_layout import PLAIN, RICH
from contrib.explore.workers import Done, Spec, Task
from contrib.kernels.errors import HarnessError

Answers = dict[tuple[str, str], list[list[Sighting]]]
A, B = Spec("a"), Spec("b")
NOTE = Sighting("note", "zone-span: N page", 1, "1 page")
ERROR = Sighting("error", "zone-id: zone id N", 1, "zone id 5")


class Scripted:
    """Gives what a table says: the answers to a layout one after the other, the last one for good."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def run(self, spec: Spec, tasks: Iterator[Task]) -> Iterator[Done]:
        for task in tasks:
            answers = self.answers[spec.path, task.layout]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            yield Done(task, Outcome("stopped", "", tuple(found), (), 0, 0, 0, 0))

    def close(self) -> None:
        pass


def test_what_only_the_second_kernel_shows_is_new() -> None:
    one = dumps(PLAIN)
    result = compare(Scripted({("a", one): [[NOTE]], ("b", one): [[NOTE, ERROR]]}), A, B, [PLAIN], "note")
    assert [item.key for item in result.new] == [ERROR.key]
    assert result.gone == [] and result.tried == 1
    text = mail(result, "6.1 a", "6.1 b", Path("bzImage"))
    assert ERROR.key in text and "qemu-system-x86_64" in text


def test_a_signature_that_comes_and_goes_with_both_is_no_difference() -> None:
    one = dumps(PLAIN)
    script: Answers = {("a", one): [[], [ERROR]], ("b", one): [[ERROR], []]}
    assert compare(Scripted(script), A, B, [PLAIN], "note").new == []


def test_what_is_below_the_least_severity_does_not_count() -> None:
    one = dumps(PLAIN)
    script: Answers = {("a", one): [[]], ("b", one): [[NOTE]]}
    assert compare(Scripted(script), A, B, [PLAIN], "warning").new == []


def test_the_command_has_memory_for_every_layout_and_its_whole_e820_table() -> None:
    simple = replace(RICH, initrd=None)
    how = stock(simple, Path("bzImage"))
    assert how is not None and why_not(simple) == ""
    assert how.memory == 402 * MIB
    assert how.append.count("memmap=") == 1 + len(simple.e820)
    assert "memmap=0x3fffedd%0x19000123+0xefffffff" in how.append
    text = command(simple, Path("bzImage"))
    encoded = re.search(r"echo (\S+) \| base64", text)
    assert encoded and base64.b64decode(encoded.group(1)).startswith(b"SRAT")
    high = replace(PLAIN, e820=(*PLAIN.e820, E820Entry(5 * GIB, 5 * GIB + MIB, RAM)))
    assert memory(high) == 4 * GIB + MIB


@pytest.mark.parametrize("change", [{"initrd": Initrd(100 * MIB, 4096)}, {"acpi": 200 * MIB}, {"words": ("mem=200M",)}])
def test_what_firmware_cannot_express_is_marked(change: dict[str, object]) -> None:
    layout = replace(PLAIN, **change)  # type: ignore[arg-type]
    assert stock(layout, Path("bzImage")) is None
    assert "direct boot only" in command(layout, Path("bzImage"))


def test_every_layout_of_the_corpus_makes_sense_and_is_there_once() -> None:
    layouts = read_corpus(CORPUS)
    assert len({dumps(layout) for layout in layouts}) == len(layouts) >= 20


def test_a_corpus_with_a_wrong_line_names_it(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    path.write_text(dumps(PLAIN) + "\n[]\n")
    with pytest.raises(HarnessError, match=":2: not a layout"):
        read_corpus(path)


def test_show_prints_a_layout_and_the_command(tmp_path: Path) -> None:
    path, image = tmp_path / "layout", tmp_path / "bzImage"
    path.write_text(dumps(PLAIN))
    image.write_bytes(b"")
    done = CliRunner().invoke(main, ["show", str(path), "--kernel", str(image)])
    assert done.exit_code == 0
    assert "399 MiB" in done.output and "memmap=exactmap" in done.output


@pytest.mark.parametrize("command", ["replay", "shrink"])
def test_a_kernel_that_is_none_costs_one_line(command: str, tmp_path: Path) -> None:
    path, image = tmp_path / "layout", tmp_path / "bzImage"
    path.write_text(dumps(PLAIN))
    image.write_bytes(b"nothing")
    done = CliRunner().invoke(main, [command, str(path), str(image)])
    assert done.exit_code == 2
    assert done.output == "error: neither a bzImage nor a vmlinux, nor an Image of arm64\n"
    assert loads(path.read_text()) == PLAIN
