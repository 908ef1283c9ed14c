# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people type: where a vmcore and the options of all commands can stand, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from mminspect.cli.usage import COMMANDS, inputs_of, main
from mminspect.kernel.inputs import Inputs
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import I386_HOLE

ONE_RULE = ("--select", "bitmap-bounds", "--format", "csv")


@pytest.mark.parametrize(
    "before",
    [("-c", "CORE", "scan"), ("scan", "-c", "CORE"), ("scan", "CORE"), ("CORE",), ("--debug", "CORE")],
    ids=" ".join,
)
def test_vmcore_can_stand_anywhere(before: tuple[str, ...], cli: Cli, unpacked: Unpacked) -> None:
    core = str(unpacked(I386_HOLE))
    done = cli(*(core if word == "CORE" else word for word in before), *ONE_RULE)
    assert (done.status, done.err) == (1, "")
    assert "\nbitmap-bounds,error,41339,41495," in done.out


def test_options_can_stand_before_and_after_the_file(cli: Cli, unpacked: Unpacked) -> None:
    core = str(unpacked(I386_HOLE))
    done = cli("scan", *ONE_RULE[:2], core, "--pageblock-order", "9", *ONE_RULE[2:])
    assert "\nbitmap-bounds,error,41339,41495," in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "CORE"),
        ("-c", "CORE", "--debug"),
        ("-c", "CORE", "-v"),
        ("-c", "CORE", "-vn"),
        ("-c", "CORE", "--fail-on=error", "--format", "table"),
        ("--width", "80", "-c", "CORE"),
        ("--width=80", "CORE"),
    ],
    ids=" ".join,
)
def test_what_has_no_command_is_scanned(arguments: tuple[str, ...], cli: Cli, unpacked: Unpacked) -> None:
    core = str(unpacked(I386_HOLE))
    done = cli(*(core if word == "CORE" else word for word in arguments))
    assert (done.status, done.err) == (1, "")
    assert "5 errors" in done.out


@pytest.mark.parametrize("command", ["zones", "capture"])
def test_other_commands_take_a_vmcore_too(command: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    more = ("-o", tmp_path / "out") if command == "capture" else ()
    assert cli(command, unpacked(I386_HOLE), *more).status == 0


def test_name_of_a_command_wins_over_a_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules").write_bytes(b"not a vmcore")
    assert cli("rules").status == 0
    assert "not a vmcore" in complaint(cli("./rules"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scann",), "there is no command 'scann' (did you mean 'scan'?). Try 'mminspect --help' for help."),
        (("no_such",), "there is no command 'no_such', and no file of that name. Try 'mminspect --help' for help."),
        (("scan", "--fail_on", "note"), "'--fail_on'. Did you mean '--fail-on'? Try 'mminspect scan --help' for help."),
        (("scan", "--formatt=json"), "'--formatt'. Did you mean '--format'? Try 'mminspect scan --help' for help."),
        (("--core",), "Option '--core' requires an argument. Try 'mminspect --help' for help."),
        (("scan", "-c"), "Option '-c' requires an argument. Try 'mminspect scan --help' for help."),
        (("page",), "Missing argument 'PFN|START-END|ADDRESS'. Try 'mminspect page --help' for help."),
        (("rules", "zone-id", "zone-span"), "(zone-span). Try 'mminspect rules --help' for help."),
        (("rules", "mixed_zone"), "there is no rule 'mixed_zone' (did you mean 'mixed-zone'?); the rules are bitmap-"),
        (
            ("scan", "--select", "zone_id"),
            "there is no rule 'zone_id' (did you mean 'zone-id'?); the rules are ",
        ),
        (("map", "FILE"), "FILE' is a file; a vmcore is given with -c. Try 'mminspect map --help' for help."),
        (("FILE", "zones"), "the command goes first: mminspect zones -c VMCORE. Try 'mminspect --help' for help."),
        (("--format", "json", "zones"), "the command goes first: mminspect zones --format. Try 'mminspect --help' for"),
        (("--pid", "1", "zones"), "No such option '--pid'. Try 'mminspect --help' for help."),
    ],
)
def test_mistakes_are_told_what_helps(arguments: tuple[str, ...], message: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "FILE").touch()
    said = complaint(cli(*(str(tmp_path / word) if word == "FILE" else word for word in arguments)))
    assert message in said


def test_each_command_takes_the_options_of_all() -> None:
    for command in COMMANDS:
        names = [option for parameter in command.params for option in parameter.opts]
        assert len(names) == len(set(names)), command.name
        assert {option for parameter in main.params for option in parameter.opts} - {"--version", "--help"} <= {*names}


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [
        ({}, {"core": ("a", "b")}, {"core": "a", "pieces": ("b",)}),
        ({"core": "a"}, {"core": ("b", "c")}, {"core": "a", "pieces": ("b", "c")}),
        ({"core": "a", "pieces": ("b",)}, {}, {"core": "a", "pieces": ("b",)}),
        ({"symbols": ("v",)}, {"symbols": ("m",), "core": ()}, {"symbols": ("v", "m")}),
        ({"btf": "x", "debug": True}, {"btf": "y"}, {"btf": "y", "debug": True}),
    ],
)
def test_what_is_given_twice(before: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert inputs_of(Inputs(**before), given) == Inputs(**expected)


def test_default_after_the_command_does_not_undo_what_stands_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Inputs] = []
    monkeypatch.setattr("mminspect.cli.zones.run", lambda inputs, **rest: seen.append(inputs))
    for arguments in (["--sandbox", "off", "zones"], ["zones", "--sandbox", "off"], ["--debug", "zones"]):
        main.main(arguments, standalone_mode=False)
    assert [(inputs.sandbox, inputs.debug) for inputs in seen] == [("off", False), ("off", False), ("auto", True)]


def test_help_of_a_command_names_those_options_once() -> None:
    text = click.Context(COMMANDS[0], info_name="scan").get_help()
    assert "--btf" not in text
    assert "The options of 'mminspect --help' can be given here, too." in text
