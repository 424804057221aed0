"""Call-frame information: for one program counter, how its frame leads to its caller's.

Only the entry (FDE) that covers the program counter is read, and its CIE; the resulting row is
compacted into a rule that the unwinder can follow in a microsecond.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from laconic.stacks.elf import Malformed
from laconic.stacks.expression import sleb, uleb

#: DWARF numbers of registers (System V ABI, AMD64 supplement, figure 3.36).
RBX, RBP, RSP, RA = 3, 6, 7, 16
#: The callee-saved registers on which a rule's CFA may depend.
CALLEE_SAVED: Final = frozenset({RBX, 12, 13, 14, 15})

#: How a register of the caller is found: at CFA + n; CFA + n itself; by an expression, or its
#: value; as another register; not at all.
OFFSET, VAL_OFFSET, EXPRESSION, VAL_EXPRESSION, REGISTER, UNDEFINED = range(6)
How = tuple[int, int | bytes]

#: A rule's shape: CFA from rsp; from rbp; without CFI, by the call that led here or otherwise by
#: frame pointers; by its row; there is no caller; code of no file, by frame pointers.
FROM_RSP, FROM_RBP, GUESS, BY_ROW, OUTERMOST, CHAIN = range(6)
_FAST_OFFSET = 1 << 30
#: A simple rule's rbp is saved within this many bytes of CFA.
FAST_SAVED: Final = 512
#: Limits that no honest entry exceeds: bytes, states remembered at once, registers with a rule; and
#: no section: entries.
_ENTRY, _REMEMBERED, _REGISTERS, _ENTRIES = 1 << 18, 64, 128, 1 << 20


class CfiRow(NamedTuple):
    """One row of the table that call-frame information describes: CFA is register + offset, or an
    expression."""

    register: int
    offset: int
    expression: bytes | None
    registers: dict[int, How]
    signal: bool


class Compact(NamedTuple):
    """A row in the unwinder's form: `rbp` is where the caller's rbp is saved, in words from CFA, 0
    if it is not saved.

    `saved` are the places of the other callee-saved registers, in bytes from CFA; `row` is present
    if the shape is BY_ROW.
    """

    shape: int
    offset: int
    rbp: int
    saved: tuple[tuple[int, int], ...]
    row: CfiRow | None


#: The rules without CFI: for a file's code, and for any other.
BY_CALL: Final = Compact(GUESS, 16, -2, (), None)
BY_FRAME_POINTER: Final = Compact(CHAIN, 16, -2, (), None)


def compact(row: CfiRow) -> Compact:
    """Return the rule of a row. O(registers)."""
    rules = row.registers
    address = rules.get(RA)
    if address is None or address[0] == UNDEFINED:
        return Compact(OUTERMOST, 0, 0, (), None)
    slow = Compact(BY_ROW, 0, 0, (), row)
    if (
        row.expression is not None
        or row.register not in (RSP, RBP)
        or not 0 < row.offset < _FAST_OFFSET
    ):
        return slow
    if row.signal or address != (OFFSET, -8) or RSP in rules:
        return slow
    rbp = 0
    saved = []
    for register, (kind, value) in rules.items():
        if register not in CALLEE_SAVED and register != RBP:
            continue
        if kind != OFFSET or not isinstance(value, int):
            return slow
        if register == RBP:
            if value % 8 or not -FAST_SAVED <= value < 0:
                return slow
            rbp = value // 8
        else:
            saved.append((register, value))
    return Compact(
        FROM_RBP if row.register == RBP else FROM_RSP, row.offset, rbp, tuple(saved), None
    )


@dataclass(slots=True)
class Cie:
    """The data that several entries share."""

    code_align: int
    data_align: int
    encoding: int
    augmented: bool
    signal: bool
    initial: CfiState


@dataclass(slots=True)
class CfiState:
    """The row under construction."""

    register: int = RSP
    offset: int = 0
    expression: bytes | None = None
    registers: dict[int, How] = field(default_factory=dict)

    def copy(self) -> CfiState:
        """Return a copy."""
        return CfiState(self.register, self.offset, self.expression, dict(self.registers))

    def take(self, other: CfiState) -> None:
        """Copy another state into this one."""
        self.register, self.offset, self.expression = other.register, other.offset, other.expression
        self.registers = dict(other.registers)


_FORMATS = {0: "<Q", 2: "<H", 3: "<I", 4: "<Q", 10: "<h", 11: "<i", 12: "<q"}
OMIT = 0xFF


def encoded(encoding: int, data: bytes, at: int, address: int, base: int = 0) -> tuple[int, int]:
    """Return a pointer as .eh_frame encodes it (DW_EH_PE), and the place after it. `address` is
    that of the first byte of `data`, `base` the base of DW_EH_PE_datarel. Raises Malformed,
    IndexError or struct.error."""
    start = at
    form = encoding & 15
    if form == 1:
        value, at = uleb(data, at)
    elif form == 9:
        value, at = sleb(data, at)
    elif form in _FORMATS:
        value = struct.unpack_from(_FORMATS[form], data, at)[0]
        at += struct.calcsize(_FORMATS[form])
    else:
        raise Malformed(f"pointer encoding {encoding:#x} is unknown")
    how = encoding & 0x70
    if how == 0x10:
        value += address + start
    elif how == 0x30:
        value += base
    elif how or encoding & 0x80:
        raise Malformed(f"pointer encoding {encoding:#x} is of no use here")
    return value & (1 << 64) - 1, at


class CallFrames:
    """The entries of one section: `.eh_frame` (`eh`), or `.debug_frame`. `address` is the address
    of its first byte."""

    def __init__(self, data: bytes, address: int, eh: bool) -> None:
        self._data = data
        self._address = address
        self._eh = eh
        self._cies: dict[int, Cie] = {}

    def row(self, fde: int, pc: int) -> CfiRow | None:
        """Return the row for `pc` by the entry at offset `fde`; None if that entry does not cover
        it.

        Raises Malformed, IndexError or struct.error. O(length of the entry).
        """
        entry = self._entry(fde)
        if entry is None:
            return None
        start, size, cie, at, end = entry
        if not start <= pc < start + size:
            return None
        state = cie.initial.copy()
        self._execute(state, cie, at, end, start, pc)
        return CfiRow(state.register, state.offset, state.expression, state.registers, cie.signal)

    def scan(self) -> list[tuple[int, int]]:
        """Return (first address, offset) of every entry in order of address, if there is no table.
        O(section)."""
        data, found, at = self._data, [], 0
        for _ in range(_ENTRIES):
            if at + 4 > len(data):
                break
            try:
                body, end, _ = self._extent(at)
            except (Malformed, struct.error):
                break
            if end == body:  # a zero terminator; the linker may have joined more behind it
                at = end
                continue
            try:
                entry = self._entry(at)
                if entry is not None and entry[1]:
                    found.append((entry[0], at))
            except (Malformed, IndexError, struct.error):
                pass
            at = end
        found.sort()
        return found

    def _extent(self, at: int) -> tuple[int, int, int]:
        # Return where an entry's content starts and ends, and the size of its offsets in bytes.
        data = self._data
        if not 0 <= at <= len(data) - 4:
            raise Malformed("an entry is out of its section")
        length = struct.unpack_from("<I", data, at)[0]
        body, wide = at + 4, 4
        if length == 0xFFFFFFFF:
            length = struct.unpack_from("<Q", data, body)[0]
            body, wide = body + 8, 8
        if body + length > len(data) or length > _ENTRY:
            raise Malformed("an entry is longer than its section, or than any can be")
        return body, body + length, wide

    def _entry(self, at: int) -> tuple[int, int, Cie, int, int] | None:
        # Return an FDE: first address, size, CIE, and where its instructions start and end. None
        # for a CIE.
        data = self._data
        body, end, wide = self._extent(at)
        # In .eh_frame the id always has four bytes, and an FDE's counts back from itself.
        wide = 4 if self._eh else wide
        identity = struct.unpack_from("<I" if wide == 4 else "<Q", data, body)[0]
        if identity == (0 if self._eh else (1 << 8 * wide) - 1):
            return None
        cie = self._cie(body - identity if self._eh else identity)
        at = body + wide
        start, at = encoded(cie.encoding, data, at, self._address)
        size, at = encoded(cie.encoding & 15, data, at, 0)
        if cie.augmented:
            length, at = uleb(data, at)
            at += length
        return start, size, cie, at, end

    def _cie(self, at: int) -> Cie:
        cie = self._cies.get(at)
        if cie is None:
            cie = self._cies[at] = self._read_cie(at)
        return cie

    def _read_cie(self, at: int) -> Cie:
        data = self._data
        body, end, wide = self._extent(at)
        at = body + (4 if self._eh else wide)
        version = data[at]
        stop = data.index(b"\0", at + 1, end)
        augmentation = data[at + 1 : stop]
        at = stop + 1
        if augmentation.startswith(b"eh"):
            at += 8
        if version == 4:
            at += 2  # address size, segment selector size
        code_align, at = uleb(data, at)
        data_align, at = sleb(data, at)
        register, at = (data[at], at + 1) if version == 1 else uleb(data, at)
        if register != RA:
            raise Malformed("the return address is not a register of x86-64")
        cie = Cie(
            code_align, data_align, 0, augmentation[:1] == b"z", b"S" in augmentation, CfiState()
        )
        if cie.augmented:
            length, at = uleb(data, at)
            self._augment(cie, augmentation[1:], at)
            at += length
        self._execute(cie.initial, cie, at, end, 0, None)
        return cie

    def _augment(self, cie: Cie, letters: bytes, at: int) -> None:
        for letter in letters:
            if letter == ord("R"):
                cie.encoding = self._data[at]
                at += 1
            elif letter == ord("L"):
                at += 1
            elif letter == ord("P"):
                encoding = self._data[at]
                at += 1
                # An aligned or indirect pointer to the personality routine is skipped, whatever it
                # is.
                _, at = encoded(encoding & 15, self._data, at, 0)
            elif letter not in b"SB":
                break

    def _execute(
        self, state: CfiState, cie: Cie, at: int, end: int, location: int, pc: int | None
    ) -> None:
        # Run instructions up to the row for pc, or all of them if there is no pc (a CIE's). The
        # most frequent ones are inline.
        data = self._data
        remembered: list[CfiState] = []
        while at < end:
            op = data[at]
            at += 1
            high, low = op & 0xC0, op & 0x3F
            if high == 0x40:  # DW_CFA_advance_loc
                location += low * cie.code_align
            elif high == 0x80:  # DW_CFA_offset
                value, at = uleb(data, at)
                state.registers[low] = (OFFSET, value * cie.data_align)
            elif high == 0xC0:  # DW_CFA_restore
                _restore(state, cie, low)
            elif op == 0x0E:  # DW_CFA_def_cfa_offset
                state.offset, at = uleb(data, at)
            elif op == 0x01:  # DW_CFA_set_loc
                location, at = encoded(cie.encoding, data, at, self._address)
            elif op in (0x02, 0x03, 0x04):  # DW_CFA_advance_loc1, 2, 4
                size = 1 << (op - 2)
                location += int.from_bytes(data[at : at + size], "little") * cie.code_align
                at += size
            elif op == 0x0A:  # DW_CFA_remember_state
                if len(remembered) >= _REMEMBERED or len(state.registers) > _REGISTERS:
                    raise Malformed("a state is too large")
                remembered.append(state.copy())
            elif op == 0x0B:  # DW_CFA_restore_state
                if not remembered:
                    raise Malformed("a state is restored that was not remembered")
                state.take(remembered.pop())
            else:
                at = _instruction(op, data, at, state, cie)
            if pc is not None and location > pc:
                return


def _restore(state: CfiState, cie: Cie, register: int) -> None:
    initial = cie.initial.registers.get(register)
    if initial is None:
        state.registers.pop(register, None)
    else:
        state.registers[register] = initial


def _instruction(op: int, data: bytes, at: int, state: CfiState, cie: Cie) -> int:
    # Run one of the rarer instructions; return the place after the operands.
    if op == 0x00 or op == 0x2D:  # DW_CFA_nop, DW_CFA_GNU_window_save
        return at
    if op == 0x2E:  # DW_CFA_GNU_args_size
        return uleb(data, at)[1]
    if op in (
        0x0F,
        0x10,
        0x16,
    ):  # DW_CFA_def_cfa_expression, DW_CFA_expression, DW_CFA_val_expression
        register = 0
        if op != 0x0F:
            register, at = uleb(data, at)
        length, at = uleb(data, at)
        code = data[at : at + length]
        if op == 0x0F:
            state.expression = code
        else:
            state.registers[register] = (EXPRESSION if op == 0x10 else VAL_EXPRESSION, code)
        return at + length
    if op == 0x13:  # DW_CFA_def_cfa_offset_sf
        value, at = sleb(data, at)
        state.offset = value * cie.data_align
        return at
    register, at = uleb(data, at)
    if op in (
        0x06,
        0x07,
        0x08,
        0x0D,
    ):  # DW_CFA_restore_extended, undefined, same_value, def_cfa_register
        if op == 0x06:
            _restore(state, cie, register)
        elif op == 0x07:
            state.registers[register] = (UNDEFINED, 0)
        elif op == 0x08:
            state.registers.pop(register, None)
        else:
            state.register, state.expression = register, None
        return at
    signed = op in (0x11, 0x12, 0x15)  # DW_CFA_offset_extended_sf, def_cfa_sf, val_offset_sf
    value, at = sleb(data, at) if signed else uleb(data, at)
    if op in (0x05, 0x11, 0x2F):  # DW_CFA_offset_extended, _sf, DW_CFA_GNU_negative_offset_extended
        state.registers[register] = (OFFSET, value * cie.data_align * (-1 if op == 0x2F else 1))
    elif op == 0x09:  # DW_CFA_register
        state.registers[register] = (REGISTER, value)
    elif op == 0x0C:  # DW_CFA_def_cfa
        state.register, state.offset, state.expression = register, value, None
    elif op == 0x12:
        state.register, state.offset, state.expression = register, value * cie.data_align, None
    elif op in (0x14, 0x15):  # DW_CFA_val_offset, _sf
        state.registers[register] = (VAL_OFFSET, value * cie.data_align)
    else:
        raise Malformed(f"call-frame instruction {op:#x} is unknown")
    return at
