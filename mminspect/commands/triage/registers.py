# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Registers in a log, in sets: a report may show those of an interrupted function and those of user space too.

Whether a set is of the kernel is told by what the CPU itself has of it: the code segment, the processor state, the
PSW's problem state bit, the MSR's PR bit. User space's registers hold its data and never leave this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mminspect.commands.triage.stacks import plain_name

_NAME = r"[A-Za-z_$.][\w.$]{0,255}"
_HEX = r"(?:[0-9a-f]{16}|[0-9a-f]{8})"
_PAIR = re.compile(rf"(?<![\w.])([A-Za-z][A-Za-z0-9]{{0,6}}) {{0,2}}: {{0,2}}(?:[0-9a-f]{{4}}:)?(?:\[<)?({_HEX})\b")
_SYMBOL = re.compile(rf"(?:(?:\[<?)?[0-9a-f]{{8,16}}(?:>?\])? {{1,3}}){{0,2}}({_NAME})\+0x")

_RIP = re.compile(r"RIP: {0,2}([0-9a-f]{4}):(?:\[<([0-9a-f]{8,16})>\] {0,3})?(.{0,400})")
# The stack segment of 64-bit and of 32-bit programs. That of Xen's guests is the kernel's too.
_USER_STACK = re.compile(r"RSP: (?:002b|007b):")
_EIP_SEGMENT = re.compile(rf"EIP: {{0,2}}([0-9a-f]{{4}}):\[<({_HEX})>\]")
_EIP = re.compile(r"EIP: (?:is at )?(.{0,300})|EIP is at (.{0,300})")
_PC = re.compile(r"(?:PC is at|pc :|epc {0,3}:|sepc:) (.{0,300})")
# The function that the program counter's returns to.
_LINK = re.compile(r"(?:LR is at|lr :|ra :) (.{0,300})")
_NUMBER = re.compile(r"\[?<?(?:0x)?([0-9a-f]{1,16})\b")
_NIP = re.compile(rf"NIP: {{1,3}}({_HEX})\b")
_NIP_SYMBOL = re.compile(rf"(?:NIP|LR) \[{_HEX}\] (.{{0,300}})")
_PSW = re.compile(rf"(Krnl|User) PSW : ({_HEX}) ({_HEX})(?: \((.{{0,300}}))?")
_GPRS = re.compile(rf"(?:Krnl|User) GPRS: ?((?: ?{_HEX}){{1,4}}) ?$")
_GPR = re.compile(rf"GPR(\d\d):((?: {{1,2}}{_HEX}){{1,8}}) ?$")
_VALUES = re.compile(rf"((?:{_HEX} ){{0,7}}{_HEX}) ?$")
_CODE = re.compile(r"(?:Krnl |User )?Code: ?|Instruction dump:|Code starting with")
_CODE_WORDS = re.compile(r"(?:[<(]?[0-9a-f]{2,16}[>)]? ){2,64}(?:[<(]?[0-9a-fX]{2,16}[>)]?)? ?$|XXXXXXXX ")
# Parts of a set that tell nothing that is needed.
_REST = re.compile(
    r"(?:REGS: |MSR: |CFAR: |DAR: |IRQMASK: |[DEF]S: |CS: |GS: |CR[0234]: |DR[0-7]: |PKRU: |R:\d T:\d |Flags: |"
    r"Control: |LR is at |lr : |ra : |sp : |gp : |a\d : |[st]\d{1,2} ?: |pmr_save: |Last Breaking|orig_a0|Status: |"
    r"Cause :|Register |\$ {0,2}\d{1,2} {0,3}:)"
)
_PSTATE = re.compile(rf"(?:^|[ \t])(?:pstate|psr): ({_HEX})\b")
_STATUS = re.compile(rf"s?status: ({_HEX}) ")
_MSR = re.compile(rf"MSR: {{1,3}}{_HEX} ?<([A-Z,\[\]0-9]{{0,100}})>")
_MODE = re.compile(r"\bMode ([A-Z]{3,4})")
# i386 shows no code segment of kernels, but both stack segments.
_SS = re.compile(r"DS: [0-9a-f]{4} ES: [0-9a-f]{4} .{0,40}\bSS: ([0-9a-f]{4})\b")
_CS = re.compile(r"(?:^|[ ,])CS: {1,2}([0-9a-f]{4})\b")
# "--- interrupt: 3000 at 0x7fff...": registers of what was interrupted follow (PowerPC).
_INTERRUPT = re.compile(r"--- ?(?:interrupt|Exception|\[)")

_NAMES = frozenset(
    (
        *(
            "rax",
            "rbx",
            "rcx",
            "rdx",
            "rsi",
            "rdi",
            "rbp",
            "rsp",
            "eax",
            "ebx",
            "ecx",
            "edx",
            "esi",
            "edi",
            "ebp",
            "esp",
        ),
        *("cr2", "sp", "lr", "pc", "fp", "ip", "ra", "gp", "tp", "epc", "nip", "ctr", "dar", "cfar", "badaddr"),
        *(f"r{number}" for number in range(32)),
        *(f"x{number}" for number in range(31)),
        *(f"{letter}{number}" for letter in "sta" for number in range(12)),
    )
)

KERNEL, USER = "kernel", "user"


@dataclass
class RegisterSet:
    """
    The registers of one context.

    :ivar mode: ``kernel``, ``user``, or ``None`` if nothing tells.
    :ivar function: That the program counter is in.
    :ivar at_start: Whether the program counter is at the function's first instruction.
    :ivar link: The function that the link register points into.
    :ivar pc: Program counter.
    :ivar values: By name, as the kernel spells it.
    :ivar stack: Name of the stack that it stands in.
    """

    mode: str | None = None
    function: str | None = None
    at_start: bool = False
    link: str | None = None
    pc: int | None = None
    values: dict[str, int] = field(default_factory=dict)
    stack: str = ""
    _next_gpr: int | None = None

    def settled_mode(self) -> str | None:
        """Return the mode, by the program counter if nothing else tells."""
        if self.mode is not None or self.function is not None:
            return self.mode or KERNEL
        if self.pc is None:
            return None
        if self.pc >> 32:
            return KERNEL if self.pc >> 63 else USER
        # Kernels whose part of the address space begins lower show the mode.
        return KERNEL if self.pc >= 0xC0000000 else USER


class RegisterReader:
    """
    Puts the lines of one report's registers into sets.

    :ivar sets: In the order of the log.
    """

    def __init__(self) -> None:
        self.sets: list[RegisterSet] = []
        self.open = False
        self._code = False

    @property
    def current(self) -> RegisterSet | None:
        """The set that lines go to."""
        return self.sets[-1] if self.open and self.sets else None

    def close(self) -> None:
        """End the current set."""
        self.open = self._code = False

    def take(self, text: str, stack: str) -> RegisterSet | None:
        """
        Take a line.

        :param text: Without space before it.
        :param stack: Name of the stack that it stands in.
        :return: The set that the line belongs to, or ``None`` if it isn't part of any.
        """
        if _INTERRUPT.match(text):
            return None
        code = _CODE.match(text)
        if code or (self._code and _CODE_WORDS.match(text)):
            self._code = True
            return self.current or RegisterSet()
        self._code = False
        if _USER_STACK.match(text) and (self.current is None or self.current.mode != USER):
            # The line with the program counter is lost.
            self._begin(stack).mode = USER
        head = self._head(text, stack)
        found = _PAIR.findall(text)
        pairs = [(name, value) for name, value in found if name.lower() in _NAMES]
        if not (head or pairs or self._grouped(text)) and not (self.open and _REST.match(text)):
            return None
        match = _LINK.match(text)
        if match:
            self._linked(match.group(1))
        current = self.current or self._begin(stack)
        if pairs and text.startswith(("raw:", "page:", "flags:")):
            return None
        for name, value in pairs:
            current.values.setdefault(name, int(value, 16))
            if name in ("pc", "epc", "nip", "NIP") and current.pc is None:
                current.pc = int(value, 16)
        self._mode(current, text)
        return current

    def _begin(self, stack: str) -> RegisterSet:
        self.sets.append(RegisterSet(stack=stack))
        self.open = True
        return self.sets[-1]

    def _head(self, text: str, stack: str) -> bool:
        """Begin a set where a line does, and take its program counter."""
        start = text[:4]
        if start == "RIP:":
            match = _RIP.match(text)
            if match is None:
                return False
            current = self._begin(stack)
            current.mode = USER if int(match.group(1), 16) & 3 == 3 else KERNEL
            self._counter(current, match.group(3), match.group(2))
            return True
        if start == "EIP:" or text.startswith("EIP is at"):
            match = _EIP_SEGMENT.match(text)
            if match:
                current = self._begin(stack)
                current.mode = USER if int(match.group(1), 16) & 3 == 3 else KERNEL
                current.pc = int(match.group(2), 16)
                return True
            current = self.current if text.startswith("EIP is at") and self.current else self._begin(stack)
            match = _EIP.match(text)
            if match:
                self._counter(current, match.group(1) or match.group(2) or "", None)
            return True
        if start == "NIP:":
            match = _NIP.match(text)
            if match:
                self._begin(stack).pc = int(match.group(1), 16)
            return match is not None
        if start in ("NIP ", "LR ["):
            match = _NIP_SYMBOL.match(text)
            if match and start == "NIP ":
                self._counter(self.current or self._begin(stack), match.group(1), None)
            elif match:
                self._linked(match.group(1))
            return match is not None
        return self._head_of_risc(text, stack)

    def _head_of_risc(self, text: str, stack: str) -> bool:
        match = _PSW.match(text)
        if match:
            current = self._begin(stack)
            # Bit 15 of the PSW is the problem state.
            problem = int(match.group(2), 16) >> 48 & 1
            current.mode = USER if match.group(1) == "User" or problem else KERNEL
            current.pc = int(match.group(3), 16)
            if match.group(4):
                self._counter(current, match.group(4), None)
            return True
        if text.startswith("pstate:"):
            self._begin(stack)
            return True
        match = _PC.match(text)
        if match is None:
            return False
        current = self.current or self._begin(stack)
        symbol = _SYMBOL.match(match.group(1))
        # Both the function and the address of a program counter may be shown, on lines of their own.
        number = None if symbol else _NUMBER.match(match.group(1))
        if current.function is not None if symbol else current.pc not in (None, number and int(number.group(1), 16)):
            current = self._begin(stack)
        self._counter(current, match.group(1), None)
        return True

    def _counter(self, current: RegisterSet, text: str, address: str | None) -> None:
        symbol = _SYMBOL.match(text.lstrip())
        if symbol and current.function is None:
            current.function = plain_name(symbol.group(1))
            current.at_start = symbol.string.startswith("0/", symbol.end())
        if address:
            current.pc = int(address, 16)
            return
        number = _NUMBER.match(text)
        if number and not symbol and current.pc is None:
            current.pc = int(number.group(1), 16)

    def _linked(self, text: str) -> None:
        symbol = _SYMBOL.match(text)
        if symbol and self.current and self.current.link is None:
            self.current.link = plain_name(symbol.group(1))

    def _grouped(self, text: str) -> bool:
        """Take registers that share one name: PowerPC's in fours, and all sixteen of s390."""
        current = self.current
        match = _GPR.match(text)
        if match:
            current = current or self._begin("")
            for number, value in enumerate(match.group(2).split(), int(match.group(1))):
                current.values.setdefault(f"r{number}", int(value, 16))
            return True
        match = _GPRS.match(text)
        if match:
            current = current or self._begin("")
            current._next_gpr = 0
        elif current is None or current._next_gpr is None:
            return False
        else:
            match = _VALUES.match(text)
        if match is None or current._next_gpr is None or current._next_gpr > 12:
            current._next_gpr = None
            return False
        for value in match.group(1).split():
            current.values.setdefault(f"r{current._next_gpr}", int(value, 16))
            current._next_gpr += 1
        return True

    @staticmethod
    def _mode(current: RegisterSet, text: str) -> None:
        """Take the CPU's mode from a line that shows it."""
        user: bool | None = None
        match = _PSTATE.search(text) if "ps" in text else None
        if match:
            state = int(match.group(1), 16)
            # AArch64's EL0t is 0, AArch32's user mode 0x10; 32-bit Arm always has bit 4.
            user = state & 0xF == 0
        match = _STATUS.match(text)
        if match and "cause" in text:
            # SPP of RISC-V's sstatus: the privilege that a trap came from.
            user = not int(match.group(1), 16) & 0x100
        match = _MSR.match(text)
        if match:
            user = "PR" in match.group(1).split(",")
        match = _MODE.search(text) if text.startswith("Flags:") else None
        if match:
            user = match.group(1).startswith("US")
        match = _SS.match(text)
        if match and current.function is None:
            user = int(match.group(1), 16) & 3 == 3
        match = _CS.search(text) if "CS:" in text and current.mode is None else None
        if match and current.mode is None:
            user = int(match.group(1), 16) & 3 == 3
        if user is not None:
            current.mode = USER if user else KERNEL
