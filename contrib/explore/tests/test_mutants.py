# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mistakes that are put into a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from contrib.explore.coverage import Block
from contrib.explore.cpu import AMD64
from contrib.explore.image import Image, Segment
from contrib.explore.judge import Sighting
from contrib.explore.kernel import PLAIN, Kernel
from contrib.explore.layout import dumps
from contrib.explore.mutants import BUG_OF_2021, Mutant, Trial, bug_of_2021, choose, line, mutants
from contrib.explore.outcome import Outcome
from contrib.explore.symbols import Symbols
from contrib.explore.workers import Done, Spec, Task
from contrib.kernels.errors import HarnessError

BASE = 0xFFFFFFFF81000000
# memmap_init: jb +2, jae (long), call other, call __fentry__, lea rax, [rdx-1], ret
CODE = bytes.fromhex("7202 0f8300000000 e8ee000000 e8ee000000 488d42ff c3")
KERNEL = Kernel(
    "test",
    "",
    Image(AMD64, BASE, (Segment(BASE, 0, CODE.ljust(0x200, b"\xc3"), 0x200),), b"", {}),
    Symbols({"memmap_init": BASE, "other": BASE + 0xFB, "__fentry__": BASE + 0x100, "printk": BASE + 0x180}),
    b"",
)
WHOLE = Block(BASE, BASE + len(CODE))


def made() -> list[Mutant]:
    pytest.importorskip("capstone")
    return mutants(KERNEL, [WHOLE])


def test_each_mistake_is_one_instruction_of_the_same_length() -> None:
    found = {(one.poke[0], one.poke[1].hex()): one.what for one in made()}
    assert found == {
        ("memmap_init+0x0", "7602"): "a comparison is off by one",
        ("memmap_init+0x0", "6690"): "a check never holds",
        ("memmap_init+0x0", "7302"): "a check is inverted",
        ("memmap_init+0x2", "0f8700000000"): "a comparison is off by one",
        ("memmap_init+0x2", "660f1f440000"): "a check never holds",
        ("memmap_init+0x2", "0f8200000000"): "a check is inverted",
        ("memmap_init+0x8", "0f1f440000"): "a call is left out",
        ("memmap_init+0x12", "488d4200"): "a constant is 0 in place of 1",
    }


def test_code_that_does_not_run_or_is_another_functions_has_none() -> None:
    pytest.importorskip("capstone")
    assert mutants(KERNEL, []) == []
    assert mutants(KERNEL, [Block(BASE + 0x180, BASE + 0x190)]) == []


def test_choice_depends_on_the_seed_alone_and_takes_each_kind() -> None:
    every = made()
    assert choose(every, 4, 1) == choose(every, 4, 1)
    assert len({one.what for one in choose(every, 4, 1)}) == 4
    assert len(choose(every, 100, 1)) == len(every)


def test_bug_of_2021_needs_its_function() -> None:
    assert bug_of_2021(KERNEL) == []


class Fake:
    """A pool: each layout gives what its kernel's poke says."""

    def __init__(self, *, flaky: bool = False) -> None:
        self.flaky = flaky
        self.tries = 0

    def run(self, spec: Spec, tasks: Iterator[Task]) -> Iterator[Done]:
        for task in tasks:
            keys = ["the kernel's own"]
            if spec.pokes:
                self.tries += 1
                keys += ["the mutant's"] if not self.flaky or self.tries % 2 else []
            found = tuple(Sighting("error", key, 1, "") for key in keys)
            yield Done(task, Outcome("stopped", "", found, (), 0, 0, 0, 0))

    def close(self) -> None:
        pass


MUTANT = Mutant(BUG_OF_2021, "a mistake", "call x")


def test_mutant_is_shown_by_what_its_kernel_does_not_give() -> None:
    result = Trial(Fake(), Spec("kernel"), [PLAIN]).run(MUTANT)
    assert (result.keys, result.layouts, result.shown_by) == (["error the mutant's"], 1, dumps(PLAIN))
    assert line(result).endswith("a mistake: layout 1: error the mutant's")


def test_what_comes_and_goes_shows_no_mutant() -> None:
    result = Trial(Fake(flaky=True), Spec("kernel"), [PLAIN, PLAIN]).run(MUTANT)
    assert result.keys == []
    assert line(result).endswith("not shown by 2 layouts")


@pytest.mark.parametrize(("place", "address"), [("memmap_init", BASE), ("memmap_init+0x12", BASE + 0x12)])
def test_place_of_a_poke(place: str, address: int) -> None:
    assert KERNEL.symbols.place(place) == address


@pytest.mark.parametrize("place", ["nothing", "nothing+0x1", "memmap_init+", "memmap_init+x"])
def test_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(HarnessError, match=r"no symbol|need SYMBOL"):
        KERNEL.symbols.place(place)


def test_missing_capstone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(HarnessError, match=r"mminspect\[explore\]"):
        mutants(KERNEL, [WHOLE])
