"""The Python frames of a stopped thread: function, file and line, from the memory of CPython 3.11
to 3.14.

Each activation of the interpreter's loop (`_PyEval_EvalFrameDefault`) runs a chain of Python frames
and keeps a record in its own C frame: a `_PyCFrame` in 3.11, an entry frame since 3.12. The address
of that record shows which C frame the Python frames belong to; no symbol is needed for it.

    runtime (section .PyRuntime) -> interpreters -> thread states, by thread_id
    thread state -> innermost frame -> previous -> ... -> entry frame -> previous -> ...
    frame -> code object: qualname, filename, line table; and the instruction that it is at

CPython 3.13 and later describe their structures themselves (`_Py_DebugOffsets`). For 3.11 and 3.12,
the offsets are constants from their releases.

A code object may be freed, and another one may be allocated at its address. The data that was read
of a code object is therefore compared with its memory in every stack in which it occurs.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from laconic.stacks.elf import Malformed
from laconic.stacks.memory import Block, Memory, Pieces
from laconic.stacks.table import PYTHON, Frame, Module, Tables

#: The maximum number of Python frames of one stack.
DEPTH: Final = 512
#: The maximum number of interpreters of a process, and of thread states of all of them, that are
#: searched for a thread.
_INTERPRETERS, _THREADS = 64, 2048
#: The maximum number of code objects, and of combinations of them, that are kept.
_CODES, _SHAPES = 20_000, 4_000
#: Stacks without a single Python frame after which reading an interpreter is given up.
_FAILURES: Final = 200
#: The maximum size in bytes of a name, and of a line table.
_NAME, _TABLE = 1 << 12, 1 << 20
_PAGE: Final = 4096
_WORD = struct.Struct("<Q")
#: Values of `owner`: FRAME_OWNED_BY_GENERATOR; and the first value that does not belong to a Python
#: function (FRAME_OWNED_BY_CSTACK in 3.12 and 3.13, FRAME_OWNED_BY_INTERPRETER in 3.14).
_GENERATOR, _ENTRY = 1, 3
#: Ranges that one process_vm_readv(2) takes (UIO_MAXIOV is 1,024).
_RANGES: Final = 1000


class Unsupported(Exception):
    """The Python frames of this interpreter cannot be read; the text says why."""


class InterpreterLayout(NamedTuple):
    """The offsets of the fields of CPython's structures, in bytes. 0: the version lacks the
    structure.

    `thread_frame` is the innermost frame; with `cframe`, the `_PyCFrame` that contains it at
    `cframe_frame`. `text` and `wide` are the sizes of PyASCIIObject and PyCompactUnicodeObject.
    `versioned`: code objects have a number, `co_version`, between `code_line` and `code_lines`.
    """

    interpreters: int
    interpreter_next: int
    interpreter_threads: int
    thread_next: int
    thread_frame: int
    thread_id: int
    cframe: bool
    cframe_frame: int
    cframe_previous: int
    frame_code: int
    frame_previous: int
    frame_instruction: int
    frame_owner: int
    frame_is_entry: int
    code_line: int
    code_filename: int
    code_qualname: int
    code_lines: int
    code_instructions: int
    text: int
    wide: int
    versioned: bool


#: The released versions that do not describe their structures.
RELEASED: Final = {
    (3, 11): InterpreterLayout(
        40, 0, 16, 8, 56, 152, True, 8, 16, 32, 48, 56, 69, 68, 72, 112, 128, 136, 184,
        48, 72, False,
    ),
    (3, 12): InterpreterLayout(
        40, 0, 72, 8, 56, 136, True, 0, 8, 0, 8, 56, 70, 0, 68, 112, 128, 136, 192, 40, 56, True
    ),
}  # fmt: skip
#: The number of the word in `_Py_DebugOffsets` at which each structure starts: PyThreadState,
#: _PyInterpreterFrame, PyCodeObject, PyBytesObject, PyUnicodeObject. The structures before them are
#: at the same place in all versions.
_DESCRIBED: Final = {(3, 13): (19, 28, 34, 64, 67), (3, 14): (22, 31, 39, 74, 77)}
_COOKIE: Final = b"xdebugpy"
_WORDS: Final = 96


def layout_of(memory: Memory, tid: int, runtime: int, version_at: int) -> InterpreterLayout:
    """Return the layout of the interpreter whose `_PyRuntime` and `Py_Version` are at these
    addresses; `version_at` is 0 if it has none. Raises Unsupported."""
    data = memory.read(tid, runtime, 8 * _WORDS)
    if data[:8] == _COOKIE and len(data) == 8 * _WORDS:
        return _described(struct.unpack(f"<{_WORDS}Q", data))
    if not version_at:
        raise Unsupported("its version is older than 3.11, or unknown")
    version = int.from_bytes(memory.read(tid, version_at, 8), "little")
    _check(version)
    layout = RELEASED.get((version >> 24, version >> 16 & 0xFF))
    if layout is None:
        raise Unsupported(f"CPython {_name(version)} is not supported")
    return layout


def _name(version: int) -> str:
    return f"{version >> 24}.{version >> 16 & 0xFF}.{version >> 8 & 0xFF}"


def _check(version: int) -> None:
    # Alphas and betas (PY_RELEASE_LEVEL) do not have the final structures of the release.
    if version >> 4 & 0xF not in (0xC, 0xF):
        raise Unsupported(f"CPython {_name(version)} is a pre-release")


def _described(words: Sequence[int]) -> InterpreterLayout:
    version, free_threaded = words[1], words[2]
    _check(version)
    if free_threaded:
        raise Unsupported(f"CPython {_name(version)} is a free-threaded build")
    groups = _DESCRIBED.get((version >> 24, version >> 16 & 0xFF))
    if groups is None:
        raise Unsupported(f"CPython {_name(version)} is not supported")
    thread, frame, code, data, text = groups
    # Fields that have never changed show whether this is the expected table.
    if (words[data + 1], words[data + 2], words[text + 1], words[text + 2]) != (16, 32, 32, 16):
        raise Unsupported(f"CPython {_name(version)} has another layout than the release")
    layout = InterpreterLayout(
        interpreters=words[5],
        interpreter_next=words[8],
        interpreter_threads=words[9],
        thread_next=words[thread + 2],
        thread_frame=words[thread + 4],
        thread_id=words[thread + 5],
        cframe=False,
        cframe_frame=0,
        cframe_previous=0,
        frame_code=words[frame + 2],
        frame_previous=words[frame + 1],
        frame_instruction=words[frame + 3],
        frame_owner=words[frame + 5],
        frame_is_entry=0,
        code_line=words[code + 5],
        code_filename=words[code + 1],
        code_qualname=words[code + 3],
        code_lines=words[code + 4],
        code_instructions=words[code + 9],
        text=words[text + 3],
        wide=words[text + 3] + 16,
        versioned=True,
    )
    if max(int(field) for field in layout) >= 1 << 20 or layout.thread_id > 1 << 10:
        raise Unsupported(f"CPython {_name(version)} has another layout than the release")
    return layout


class PythonCode:
    """The data of a code object. `ranges` of memory contained `contents` when it was read."""

    def __init__(
        self, module: int, first_line: int, table: bytes, instructions: int, traceable: int
    ) -> None:
        self.module = module
        self.first_line = first_line
        self.instructions = instructions
        self.traceable = traceable
        self.ranges: list[tuple[int, int]] = []
        self.contents = b""
        self._table = table
        self._ends: list[int] = []
        self._lines: list[int] = []
        self._decoded = False

    def line(self, instruction: int) -> int:
        """Return the line of the instruction at an address; 0 if it has none. As
        PyCode_Addr2Line."""
        offset = instruction - self.instructions
        if offset < 0:
            return self.first_line
        if not self._decoded:
            self._ends, self._lines = line_table(self._table, self.first_line)
            self._decoded = True
        place = bisect_right(self._ends, offset)
        return self._lines[place] if place < len(self._lines) else 0


def line_table(table: bytes, first_line: int) -> tuple[list[int], list[int]]:
    """Return the ends of the ranges of a location table (PEP 626, 657), in bytes of bytecode, and
    their lines; 0 for a range that has none. O(bytes).

    An entry starts with a byte of 128 or more: 1, four bits of its kind, three of its length.
    """
    ends: list[int] = []
    lines: list[int] = []
    end, line, at, size = 0, first_line, 0, len(table)
    while at < size:
        head = table[at]
        kind, units = head >> 3 & 15, (head & 7) + 1
        at += 1
        if kind in (13, 14):  # a signed number: how far the line moves
            value = shift = 0
            while at < size:
                byte = table[at]
                at += 1
                value |= (byte & 63) << shift
                shift += 6
                if not byte & 64:
                    break
            line += -(value >> 1) if value & 1 else value >> 1
        elif 10 <= kind <= 12:
            line += kind - 10
        end += 2 * units
        ends.append(end)
        lines.append(0 if kind == 15 else line)
        while at < size and table[at] < 128:  # columns, and where the range ends in the text
            at += 1
    return ends, lines


class StackShape(NamedTuple):
    """The code objects and instructions of a stack: what must be in memory for the stack to be the
    same again, and the numbers of its frames, -1 for one that has not started."""

    pieces: tuple[Pieces, ...]
    contents: bytes
    numbers: tuple[int, ...]


#: One activation of the interpreter's loop: an address in its C frame, -1 if it is unknown; and its
#: Python frames, innermost first.
Activation = tuple[int, list[int]]


class Interpreter:
    """Reads the Python frames of one process's threads. `read` counts stacks that had some."""

    def __init__(
        self, memory: Memory, tables: Tables, layout: InterpreterLayout, runtime: int
    ) -> None:
        self.read = 0
        self._memory = memory
        self._tables = tables
        self._layout = layout
        self._runtime = runtime
        self._failures = 0
        self._states: dict[int, int] = {}
        self._codes: dict[int, PythonCode] = {}
        self._code_type = 0
        self._shapes: dict[tuple[int, ...], StackShape] = {}
        # The thread state, `_PyCFrame`s, frames and code objects of the last stack.
        self._last = 0
        self._cframes: list[int] = []
        self._frames: list[int] = []
        self._used: list[int] = []
        # The part of the thread state from the first to the last field that is needed.
        self._first = min(layout.thread_next, layout.thread_frame, layout.thread_id)
        last = max(layout.thread_next, layout.thread_frame, layout.thread_id)
        self._state = Block(last + 8 - self._first)
        # Four fields of a frame: code object, previous frame, instruction, the two bytes that end
        # with `owner`. One call for all four takes a third of the time of four calls.
        if not (
            layout.frame_code + 8 <= layout.frame_previous
            and layout.frame_previous + 8 <= layout.frame_instruction
            and layout.frame_instruction + 8 < layout.frame_owner
        ):
            raise Unsupported("its frames have another layout than those of the release")
        self._fields = struct.Struct(
            f"<{layout.frame_code}xQ{layout.frame_previous - layout.frame_code - 8}xQ"
            f"{layout.frame_instruction - layout.frame_previous - 8}xQ"
            f"{layout.frame_owner - layout.frame_instruction - 9}xH"
        )
        self._frame_size = self._fields.size
        self._window = Block(2 * _PAGE + self._frame_size)

    @property
    def is_hopeless(self) -> bool:
        """True if many stacks in which the interpreter occurs had no Python frame."""
        return not self.read and self._failures >= _FAILURES

    def activations(
        self, tid: int, thread_id: int, stack: memoryview, stack_start: int, stack_end: int
    ) -> list[Activation]:
        """Return the activations of a stopped thread, innermost first; empty if there are none, or
        if they cannot be read. `thread_id` is its pthread_self(), the register fs_base; `stack`
        contains the words of its C stack from `stack_start` to `stack_end`.

        Never raises. O(frames), and O(thread states) at a thread's first stack.
        """
        try:
            found = self._activations(tid, thread_id, stack, stack_start, stack_end)
        except (Malformed, IndexError, OverflowError, ValueError, struct.error):
            found = []
            self._failures += 1
        if found:
            self.read += 1
        return found

    def pieces(self) -> Pieces | None:
        """Return all memory that the last stack was read from: if none of it has changed, the stack
        is the same. None if it is too much. O(frames)."""
        layout = self._layout
        first = layout.frame_code
        ranges = [(self._last + layout.thread_frame, 8), (self._last + layout.thread_id, 8)]
        ranges += [(cframe, layout.cframe_previous + 8) for cframe in self._cframes]
        ranges += [(frame + first, self._frame_size - first) for frame in self._frames]
        for address in dict.fromkeys(self._used):
            code = self._codes.get(address)
            if code is None:  # the cache was full
                return None
            ranges += code.ranges
        return Pieces(ranges) if len(ranges) <= _RANGES else None

    def _activations(
        self, tid: int, thread_id: int, stack: memoryview, stack_start: int, stack_end: int
    ) -> list[Activation]:
        layout = self._layout
        if not self._find_state(tid, thread_id):
            return []
        frame = self._state.words[(layout.thread_frame - self._first) >> 3]
        cframe = 0
        if layout.cframe:
            cframe = frame
            frame = self._stack_word(
                tid, cframe + layout.cframe_frame, stack, stack_start, stack_end
            )
        has_entries = layout.frame_is_entry > 0
        size, unpack, window = self._frame_size, self._fields.unpack_from, self._window
        loaded = window.words
        base = top = 0
        pairs: list[int] = []
        frames: list[int] = []
        cframes: list[int] = [cframe] if cframe else []
        # For each activation: an address in its C frame, and the number of entries of `pairs` up to
        # its end.
        places: list[int] = []
        ends: list[int] = []
        while frame:
            frames.append(frame)
            if len(frames) > 4 * DEPTH:  # entry frames alone, in a circle
                raise Malformed("the frames have no end")
            if base <= frame <= top:
                code, previous, instruction, flags = unpack(loaded, frame - base)
            elif stack_start <= frame <= stack_end - size:
                code, previous, instruction, flags = unpack(stack, frame - stack_start)
            else:
                # The callers' frames precede it. Its page was touched already, so reading the rest
                # of the page touches no new one.
                base, top = frame & -_PAGE, frame
                if window.load(tid, base, top + size - base) < top + size - base:
                    raise Malformed("a frame is not there")
                code, previous, instruction, flags = unpack(loaded, frame - base)
            if flags >= _ENTRY << 8:
                places.append(frame)
                ends.append(len(pairs))
            else:
                pairs.append(code)
                pairs.append(instruction if flags >> 8 != _GENERATOR else instruction | 1)
                if has_entries and flags & 0xFF:
                    places.append(cframe)
                    ends.append(len(pairs))
                    cframe = self._stack_word(
                        tid, cframe + layout.cframe_previous, stack, stack_start, stack_end
                    )
                    cframes.append(cframe)
                if len(pairs) >= 2 * DEPTH:
                    break
            frame = previous
        if not pairs:
            return []
        numbers = self._numbers(tid, tuple(pairs))
        self._last = self._states[tid]
        self._frames, self._cframes = frames, cframes
        self._used = [code & -8 for code in pairs[::2]]
        if not ends or ends[-1] < len(pairs):
            places.append(-1)
            ends.append(len(pairs))
        found: list[Activation] = []
        start = 0
        for place, end in zip(places, ends, strict=True):
            begun = [number for number in numbers[start >> 1 : end >> 1] if number >= 0]
            found.append((place, begun))
            start = end
        return found

    def _stack_word(
        self, tid: int, address: int, stack: memoryview, stack_start: int, stack_end: int
    ) -> int:
        if stack_start <= address <= stack_end - 8:
            word: int = _WORD.unpack_from(stack, address - stack_start)[0]
            return word
        return self._word(tid, address)

    def _word(self, tid: int, address: int) -> int:
        data = self._memory.read(tid, address, 8)
        if len(data) < 8:
            raise Malformed("memory is not there")
        return int.from_bytes(data, "little")

    # Thread states

    def _find_state(self, tid: int, thread_id: int) -> bool:
        # Read the thread's state into `_state`; return False if it has none.
        state = self._states.get(tid)
        if state is not None and self._load_state(tid, state) == thread_id:
            return True
        layout = self._layout
        interpreter = self._word(tid, self._runtime + layout.interpreters)
        if not interpreter:
            return False  # it is not initialized yet
        left = _THREADS
        for _ in range(_INTERPRETERS):
            state = self._word(tid, interpreter + layout.interpreter_threads)
            while state and left > 0:
                left -= 1
                if self._load_state(tid, state) == thread_id:
                    self._states[tid] = state
                    return True
                state = self._state.words[(layout.thread_next - self._first) >> 3]
            interpreter = self._word(tid, interpreter + layout.interpreter_next)
            if not interpreter:
                break
        self._failures += 1
        return False

    def _load_state(self, tid: int, state: int) -> int:
        # Return its `thread_id`; -1 if it cannot be read.
        if self._state.load(tid, state + self._first, self._state.size) < self._state.size:
            return -1
        return self._state.words[(self._layout.thread_id - self._first) >> 3]

    # Code objects

    def _numbers(self, tid: int, pairs: tuple[int, ...]) -> tuple[int, ...]:
        # Return the frames' numbers; `pairs` alternates code objects and instructions.
        shape = self._shapes.get(pairs)
        if shape is not None:
            contents = b"".join([pieces.read(tid) for pieces in shape.pieces])
            if contents == shape.contents:
                return shape.numbers
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        shape = self._shapes[pairs] = self._shape(tid, pairs)
        return shape.numbers

    def _shape(self, tid: int, pairs: tuple[int, ...]) -> StackShape:
        codes = {address: self._code(tid, address) for address in dict.fromkeys(pairs[::2])}
        pieces, expected = _pieces(codes.values())
        contents = b"".join([part.read(tid) for part in pieces])
        if contents != expected:
            # A code object was freed, and another one is at its address.
            at = 0
            for address, code in list(codes.items()):
                size = len(code.contents)
                if contents[at : at + size] != code.contents:
                    self._codes.pop(address & -8, None)
                    codes[address] = self._code(tid, address)
                at += size
            pieces, expected = _pieces(codes.values())
        numbers = []
        for address, instruction in zip(pairs[::2], pairs[1::2], strict=True):
            code = codes[address]
            instruction, is_generator = instruction & -2, bool(instruction & 1)
            # As _PyFrame_IsIncomplete: the instructions that create cells and generators do not
            # belong to the function's body.
            if instruction < code.traceable and not is_generator:
                numbers.append(-1)
            else:
                line = code.line(instruction)
                numbers.append(self._tables.frames.number(Frame(code.module, line, True, False)))
        return StackShape(pieces, expected, tuple(numbers))

    def _code(self, tid: int, address: int) -> PythonCode:
        # In 3.14 the lowest bits of a reference are not part of the address.
        address &= -8
        code = self._codes.get(address)
        if code is None:
            if len(self._codes) >= _CODES:
                self._codes.clear()
            code = self._codes[address] = self._read_code(tid, address)
        return code

    def _read_code(self, tid: int, address: int) -> PythonCode:
        layout = self._layout
        data = self._memory.read(tid, address, layout.code_instructions)
        if len(data) < layout.code_instructions or not self._is_code_type(tid, _word(data, 8)):
            raise Malformed("no code object")
        lines = _word(data, layout.code_lines)
        filename, file_size = self._text(tid, _word(data, layout.code_filename))
        name, name_size = self._text(tid, _word(data, layout.code_qualname))
        table = self._bytes(tid, lines)
        first_line = struct.unpack_from("<i", data, layout.code_line)[0]
        # `_co_firsttraceable` and `co_extra` directly precede the instructions.
        first = struct.unpack_from("<i", data, layout.code_instructions - 16)[0]
        instructions = address + layout.code_instructions
        module = self._tables.modules.number(Module(PYTHON, filename, name=name))
        code = PythonCode(module, first_line, table, instructions, instructions + 2 * max(first, 0))
        # The bytes from the first line to the line table do not change while the code object lives.
        start, end = layout.code_line & -8, layout.code_lines + 8
        code.ranges.append((address + start, end - start))
        code.contents = data[start:end]
        if not layout.versioned:
            for place, size in (
                (_word(data, layout.code_filename), file_size),
                (_word(data, layout.code_qualname), name_size),
                (lines + 16, 16 + len(table)),
            ):
                code.ranges.append((place, size))
                part = self._memory.read(tid, place, size)
                code.contents += part
        return code

    def _is_code_type(self, tid: int, kind: int) -> bool:
        # Whether a type is PyCode_Type, by its name (tp_name, after PyVarObject's header).
        if kind == self._code_type and kind:
            return True
        name = self._word(tid, kind + 24)
        if self._memory.read(tid, name, 5) != b"code\0":
            return False
        self._code_type = kind
        return True

    def _text(self, tid: int, address: int) -> tuple[str, int]:
        # Return a str's text, and the bytes of the object. `state` has, from the lowest bit on:
        # interned (2), kind (3), compact (1), ascii (1).
        head = self._memory.read(tid, address, self._layout.wide + 256)
        if len(head) < 36:
            raise Malformed("no str")
        length, state = _word(head, 16), struct.unpack_from("<I", head, 32)[0]
        kind, is_compact, is_ascii = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
        if not is_compact or kind not in (1, 2, 4):
            raise Malformed("no compact str")
        start = self._layout.text if is_ascii else self._layout.wide
        size = start + min(length, _NAME) * kind
        if len(head) < size:
            head = self._memory.read(tid, address, size)
            if len(head) < size:
                raise Malformed("a str is not there")
        codec = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[kind]
        text = head[start:size].decode(codec, "replace")
        # A file's name may have bytes that are not UTF-8 (surrogateescape).
        return text.encode("utf-8", "backslashreplace").decode("utf-8"), size

    def _bytes(self, tid: int, address: int) -> bytes:
        size = self._word(tid, address + 16)
        if size > _TABLE:
            raise Malformed("a line table is too long")
        data = self._memory.read(tid, address + 32, size) if size else b""
        if len(data) < size:
            raise Malformed("a line table is not there")
        return data


def _pieces(codes: Iterable[PythonCode]) -> tuple[tuple[Pieces, ...], bytes]:
    # The ranges to read of some code objects, and their contents when they were first read.
    known = list(codes)
    ranges = [part for code in known for part in code.ranges]
    pieces = [Pieces(ranges[at : at + _RANGES]) for at in range(0, len(ranges), _RANGES)]
    return tuple(pieces), b"".join([code.contents for code in known])


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")
