"""DWARF expressions, restricted to what call-frame information uses: a stack machine on 64-bit
words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from laconic.stacks.elf import Malformed

_MASK = (1 << 64) - 1
#: An expression may jump backwards; no honest one takes more steps.
_STEPS = 1000


def uleb(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number, and the place after it. Raises IndexError past the end,
    Malformed beyond 64 bits."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value & _MASK, at
        if shift > 70:
            raise Malformed("a number is too long")


def sleb(data: bytes, at: int) -> tuple[int, int]:
    """Return a signed LEB128 number, and the place after it. Raises IndexError past the end,
    Malformed beyond 64 bits."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value - (1 << shift) if byte & 0x40 else value, at
        if shift > 70:
            raise Malformed("a number is too long")


#: Opcodes of constants → bytes and signedness (DW_OP_addr, DW_OP_const1u to const8s).
_CONSTANTS = {
    0x03: (8, False),
    0x08: (1, False),
    0x09: (1, True),
    0x0A: (2, False),
    0x0B: (2, True),
    0x0C: (4, False),
    0x0D: (4, True),
    0x0E: (8, False),
    0x0F: (8, True),
}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _quotient(a: int, b: int) -> int:
    a, b = _signed(a), _signed(b)
    quotient = abs(a) // abs(b)
    return -quotient if (a < 0) != (b < 0) else quotient


#: Opcodes of two operands (the second was on top) → what they compute.
_BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: lambda a, b: a & b,
    0x1B: _quotient,
    0x1C: lambda a, b: a - b,
    0x1D: lambda a, b: a % b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b if b < 64 else 0,
    0x25: lambda a, b: a >> b if b < 64 else 0,
    0x26: lambda a, b: _signed(a) >> min(b, 63),
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(a == b),
    0x2A: lambda a, b: int(_signed(a) >= _signed(b)),
    0x2B: lambda a, b: int(_signed(a) > _signed(b)),
    0x2C: lambda a, b: int(_signed(a) <= _signed(b)),
    0x2D: lambda a, b: int(_signed(a) < _signed(b)),
    0x2E: lambda a, b: int(a != b),
}


def evaluate(
    code: bytes,
    registers: Mapping[int, int],
    load: Callable[[int, int], int],
    initial: tuple[int, ...] = (),
) -> int:
    """Return the value that an expression leaves on top of the stack. `load` reads (address, bytes)
    of memory; `registers` are by DWARF number, the instruction pointer being 16; `initial` is the
    initial stack.

    Raises Malformed, IndexError, KeyError or ZeroDivisionError if it cannot be computed.
    O(operations), bounded.
    """
    stack = list(initial)
    at = 0
    for _ in range(_STEPS):
        if at >= len(code):
            return stack[-1] & _MASK
        op = code[at]
        at += 1
        if 0x70 <= op <= 0x8F:  # DW_OP_breg0 to breg31
            offset, at = sleb(code, at)
            stack.append(registers[op - 0x70] + offset)
        elif op == 0x92:  # DW_OP_bregx
            register, at = uleb(code, at)
            offset, at = sleb(code, at)
            stack.append(registers[register] + offset)
        elif op == 0x06:  # DW_OP_deref
            stack.append(load(stack.pop() & _MASK, 8))
        elif op == 0x94:  # DW_OP_deref_size
            stack.append(load(stack.pop() & _MASK, code[at]))
            at += 1
        elif 0x30 <= op <= 0x4F:  # DW_OP_lit0 to lit31
            stack.append(op - 0x30)
        elif op in _BINARY:
            second, first = stack.pop() & _MASK, stack.pop() & _MASK
            stack.append(_BINARY[op](first, second) & _MASK)
        elif op in _CONSTANTS:
            size, signed = _CONSTANTS[op]
            stack.append(int.from_bytes(_take(code, at, size), "little", signed=signed))
            at += size
        elif op == 0x23:  # DW_OP_plus_uconst
            value, at = uleb(code, at)
            stack.append(stack.pop() + value)
        elif op in (0x28, 0x2F):  # DW_OP_bra, DW_OP_skip
            jump = int.from_bytes(_take(code, at, 2), "little", signed=True)
            at += 2
            if op == 0x2F or stack.pop() & _MASK:
                at += jump
                if at < 0:
                    raise Malformed("an expression jumps out of itself")
        else:
            at = _plain(op, code, at, stack)
    raise Malformed("an expression does not end")


def _plain(op: int, code: bytes, at: int, stack: list[int]) -> int:
    # Run an operation that moves words on the stack, or a remaining one. Return the place after it.
    if op == 0x10:  # DW_OP_constu
        value, at = uleb(code, at)
        stack.append(value)
    elif op == 0x11:  # DW_OP_consts
        value, at = sleb(code, at)
        stack.append(value)
    elif op == 0x12:  # DW_OP_dup
        stack.append(stack[-1])
    elif op == 0x13:  # DW_OP_drop
        stack.pop()
    elif op == 0x14:  # DW_OP_over
        stack.append(stack[-2])
    elif op == 0x15:  # DW_OP_pick
        stack.append(stack[-1 - code[at]])
        at += 1
    elif op == 0x16:  # DW_OP_swap
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif op == 0x17:  # DW_OP_rot
        stack[-3:] = stack[-1], stack[-3], stack[-2]
    elif op == 0x19:  # DW_OP_abs
        stack.append(abs(_signed(stack.pop() & _MASK)))
    elif op == 0x1F:  # DW_OP_neg
        stack.append(-stack.pop())
    elif op == 0x20:  # DW_OP_not
        stack.append(~stack.pop())
    elif op != 0x96:  # DW_OP_nop
        raise Malformed(f"operation {op:#x} is unknown")
    return at


def _take(code: bytes, at: int, size: int) -> bytes:
    if at + size > len(code):
        raise Malformed("an expression is cut off")
    return code[at : at + size]
