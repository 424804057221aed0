"""Unwinding a stopped thread's stack, at a microsecond per frame once its rules are known.

The stack's memory is read at once. The rule for each program counter is kept: most say that CFA is
rsp or rbp plus a number, with the return address below it and the caller's rbp at a fixed place;
these take a few operations. Rarer frames (signal frames, PLT entries, realigned stacks) are unwound
from the whole row, with all registers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from laconic.stacks.cfi import (
    BY_FRAME_POINTER,
    BY_ROW,
    CHAIN,
    EXPRESSION,
    FAST_SAVED,
    FROM_RBP,
    FROM_RSP,
    GUESS,
    OFFSET,
    RA,
    RBP,
    REGISTER,
    RSP,
    UNDEFINED,
    VAL_OFFSET,
    CfiRow,
)
from laconic.stacks.elf import Malformed
from laconic.stacks.epilogue import LENGTH, epilogue
from laconic.stacks.expression import evaluate
from laconic.stacks.guess import BUDGET, ReturnAddresses
from laconic.stacks.memory import Memory, Pieces
from laconic.stacks.modules import BROKEN, Code, Mapping, Modules, Rule, make_rule, read_mappings
from laconic.stacks.python import Interpreter, Unsupported, layout_of
from laconic.stacks.table import JIT

#: The maximum number of frames of one stack; frames beyond are cut off.
DEPTH: Final = 512
#: Words of `struct user_regs_struct` in the order of DWARF's numbers, 0 to 16.
_BY_DWARF: Final = (10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16)
_RBP_WORD, _RIP_WORD, _RSP_WORD, _FS_BASE_WORD = 4, 16, 19, 21
_MASK = (1 << 64) - 1
_BY_GUESS = (GUESS, CHAIN)
#: The maximum number of rules and misses in a process's cache: a process may generate code
#: endlessly.
_RULES = 100_000
#: The maximum number of stacks with Python frames that are kept.
_REPEATED = 2_000
#: After the map was read without a gain, the number of walks for which an unknown address does not
#: cause another read.
_PATIENCE = 100


class Recall(NamedTuple):
    """A stack with Python frames, and the memory that they were read from."""

    pieces: Pieces
    contents: bytes
    stack: tuple[int, ...]


class Space:
    """Unwinds the stacks of one address space. `mappings` reads its executable mappings in order;
    the default reads /proc.

    The caller must call `invalidate` when executable memory changes. `python`: the frames of Python
    functions replace the interpreter's loop that runs them.
    """

    def __init__(
        self,
        pid: int,
        modules: Modules,
        mappings: Callable[[], Sequence[Mapping]] | None = None,
        depth: int = DEPTH,
        python: bool = False,
    ) -> None:
        self.pid = pid
        self.modules = modules
        self._read_mappings = mappings or (lambda: read_mappings(pid))
        self._depth = depth
        self._memory = modules.memory
        self._mappings: list[Mapping] = []
        self._starts: list[int] = []
        self._code: dict[Mapping, tuple[Code, int] | None] = {}
        self._rules: dict[int, Rule] = {}
        self._missed: set[int] = set()
        self._calls = ReturnAddresses(self._memory, self.is_code)
        self._stale = True
        self._patience = 0
        self._python = python
        self._interpreters: dict[tuple[int, int], Interpreter | None] = {}
        # The interpreter that is in use, and the numbers of the frames in its file.
        self._interpreter: Interpreter | None = None
        self._inside: set[int] = set()
        self._repeated: dict[tuple[int, ...], Recall | None] = {}

    def invalidate(self, replaced: bool = False) -> None:
        """Note that executable memory was mapped, moved, unmapped or made executable: the map is
        read again before the next walk.

        `replaced`: a file was unmapped; if it is mapped there again, it may have been rewritten
        although the map looks the same. O(1).
        """
        self._stale = True
        if replaced:
            self._mappings = []

    def _refresh(self, tid: int) -> bool:
        # Read the map; keep what is known of unchanged mappings. Return whether anything has
        # changed.
        self._stale = False
        fresh = list(self._read_mappings())
        if fresh == self._mappings and fresh:
            return False
        self._mappings = fresh
        self._starts = [mapping.start for mapping in fresh]
        self._code.clear()
        self._rules.clear()
        self._missed.clear()
        self._calls.clear()
        return True

    def walk(self, tid: int, words: Sequence[int]) -> tuple[int, ...]:
        """Return the stopped thread's stack as numbers of frames (`Tables.frames`), innermost
        first.

        `words` are its registers as PTRACE_GETREGS returns them. A broken stack ends where it is
        broken; a stack deeper than `depth` ends with frame 0. Never raises. O(frames).
        """
        if self._stale:
            self._refresh(tid)
        self._patience -= 1
        self._calls.left = BUDGET
        rules, memory, stack = self._rules, self._memory, self._memory.words
        sp, rbp, key = words[_RSP_WORD], words[_RBP_WORD], ~words[_RIP_WORD]
        stack_start, stack_end = self._window(tid, sp)
        passed: list[Rule] = []
        cfas: list[int] = []
        guesses: list[int] = []
        state: _FrameRegisters | None = None
        for _ in range(self._depth):
            rule = rules.get(key) or self._rule(key, tid)
            if rule is None:
                break
            passed.append(rule)
            shape = rule[0]
            if shape == FROM_RSP:
                cfa = sp + rule[1]
            elif shape == FROM_RBP:
                cfa = rbp + rule[1]
            elif shape in _BY_GUESS:
                guesses.append(len(passed))
                found = None
                if shape == GUESS:
                    found = self._calls.frame(
                        tid, ~key if key < 0 else key, key < 0, sp, rbp, stack_start, stack_end
                    )
                if found is not None:
                    key = stack[(found - stack_start >> 3) - 1] - 1
                    sp = found
                    cfas.append(found)
                    continue
                cfa = rbp + 16
            elif shape == BY_ROW:
                if state is None:
                    state = _FrameRegisters(words, memory, tid)
                step = state.step(rule, passed, cfas, sp, rbp, ~key if key < 0 else key + 1)
                if step is None:
                    break
                cfa, sp, rbp, key = step
                cfas.append(cfa)
                if not stack_start <= sp < stack_end:
                    stack_start, stack_end = self._window(tid, sp)
                continue
            else:
                break
            if not sp < cfa <= stack_end:
                if cfa <= sp:
                    break
                # The registers that the frame has saved are near its end.
                stack_start, stack_end = self._window(tid, max(sp, cfa - 1024))
                if cfa > stack_end:
                    break
            index = (cfa - stack_start) >> 3
            key = stack[index - 1] - 1
            if rule[2]:
                rbp = stack[index + rule[2]]
            sp = cfa
            cfas.append(cfa)
        frames = [rule[3] for rule in passed]
        is_inside = self._interpreter is not None and not self._inside.isdisjoint(frames)
        for place in guesses:
            if place < len(frames):
                frames[place] = self.modules.tables.guessed(frames[place])
        if is_inside:
            return self._recall(tid, words, frames, cfas, stack_start, stack_end)
        return (*frames, 0) if len(frames) >= self._depth else tuple(frames)

    def _recall(
        self,
        tid: int,
        words: Sequence[int],
        frames: list[int],
        cfas: Sequence[int],
        stack_start: int,
        stack_end: int,
    ) -> tuple[int, ...]:
        # Return the stack with its Python frames. Stacks recur: for a stack that has occurred
        # twice, the memory that it was read from is kept, and from then on only compared, by one
        # system call. This halves the cost of a stack in a loop.
        interpreter = self._interpreter
        assert interpreter is not None
        key = (words[_FS_BASE_WORD], words[_RSP_WORD], *frames)
        if key in self._repeated:
            recall = self._repeated[key]
            if recall is not None and recall.pieces.read(tid) == recall.contents:
                return recall.stack
        elif len(self._repeated) >= _REPEATED:
            self._repeated.clear()
        count = interpreter.read
        merged = self._with_python(tid, words, frames, cfas, stack_start, stack_end)
        if len(frames) >= self._depth or len(merged) > self._depth:
            return (*merged[: self._depth], 0)
        stack = tuple(merged)
        pieces = None
        if key in self._repeated and interpreter.read > count:
            pieces = interpreter.pieces()
        self._repeated[key] = None
        if pieces is not None:
            contents = pieces.read(tid)
            if len(contents) == pieces.size:
                self._repeated[key] = Recall(pieces, contents, stack)
        return stack

    def _with_python(
        self,
        tid: int,
        words: Sequence[int],
        frames: list[int],
        cfas: Sequence[int],
        stack_start: int,
        stack_end: int,
    ) -> list[int]:
        # Return the stack with Python frames instead of the C frames that run them.
        interpreter, stack = self._interpreter, self._memory.words
        assert interpreter is not None
        activations = interpreter.activations(
            tid, words[_FS_BASE_WORD], stack, stack_start, stack_end
        )
        if interpreter.is_hopeless:
            self._give_up(interpreter)
        merged: list[int] = []
        at, count = 0, len(frames)
        for address, python in activations:
            index = at
            if address < 0:
                while index < count and frames[index] not in self._inside:
                    index += 1
            else:
                start = cfas[at - 1] if at else words[_RSP_WORD]
                while index < len(cfas) and not start <= address < cfas[index]:
                    start = cfas[index]
                    index += 1
                if index >= len(cfas):
                    index = count
            merged += frames[at:index]
            at = min(index + 1, count)
            if not python:
                merged += frames[index:at]
                continue
            merged += python
            # With -X perf each function is called through its own piece of code.
            if at < count and self._is_trampoline(frames[at]):
                at += 1
        return merged + frames[at:]

    def _is_trampoline(self, frame: int) -> bool:
        tables = self.modules.tables
        return tables.modules[tables.frames[frame].module].kind == JIT

    def _give_up(self, interpreter: Interpreter) -> None:
        # Many stacks had no Python frame.
        for (module, bias), known in self._interpreters.items():
            if known is interpreter:
                self._interpreters[module, bias] = self._interpreter = None
                self.modules.lose_python(module, "its structures are not those of the release")
                return

    def _window(self, tid: int, sp: int) -> tuple[int, int]:
        # Read the stack around sp; return the start and end of what was read. In a function's last
        # instructions its CFI may say that a register is saved where it has just been popped from:
        # below rsp.
        start = max(sp - FAST_SAVED, 0)
        done = self._memory.load(tid, start)
        if done <= FAST_SAVED:
            start, done = sp, self._memory.load(tid, sp)
        return start, start + done

    def addresses(self, frame: int) -> set[int]:
        """Return the addresses of a frame in this process now: one for each place at which its file
        is mapped (node maps a part of itself a second time); empty if it is not mapped. For
        comparisons."""
        module, address, _, _ = self.modules.tables.frames[frame]
        biases = {
            found[1]
            for found in self._code.values()
            if found is not None and found[0].number == module
        }
        if not biases and module == self.modules.jit(self.pid):
            return {address}
        return {address + bias for bias in biases}

    def covered(self, frame: int) -> bool:
        """True if call-frame information describes how to unwind a frame. For comparisons."""
        about = self.modules.tables.frames[frame]
        found = self._mapped(about.module)
        return (
            found is not None and found[0].rule(about.lookup, about.exact)[0] != GUESS
        )  # a file's rule is never CHAIN

    def is_code(self, address: int) -> bool:
        """True for an address in an executable mapping, as of the last read of the map. O(log
        mappings)."""
        return self._find(address) is not None

    def _mapped(self, module: int) -> tuple[Code, int] | None:
        for found in self._code.values():
            if found is not None and found[0].number == module:
                return found
        return None

    # Rules that are not known yet

    def _rule(self, key: int, tid: int) -> Rule | None:
        exact = key < 0
        pc = ~key if exact else key
        mapping = self._find(pc)
        if mapping is None:
            if key in self._missed or self._patience > 0:
                return None
            if self._refresh(tid):
                mapping = self._find(pc)
            if mapping is None:
                self._patience = _PATIENCE
                if len(self._missed) < _RULES:
                    self._missed.add(key)
                return None
        if len(self._rules) >= _RULES:
            self._rules.clear()
        if mapping not in self._code:
            self._code[mapping] = self._locate(mapping, tid)
        found = self._code[mapping]
        if found is None:
            how = (
                epilogue(self._memory.read(tid, pc if exact else pc + 1, LENGTH))
                or BY_FRAME_POINTER
            )
            rule = make_rule(self.modules.tables, how, self.modules.jit(self.pid), pc, exact)
        else:
            rule = found[0].rule(pc - found[1] & _MASK, exact)
            if self._interpreters and (found[0].number, found[1]) in self._interpreters:
                self._inside.add(rule[3])
        self._rules[key] = rule
        return rule

    def _find(self, pc: int) -> Mapping | None:
        place = bisect_right(self._starts, pc) - 1
        if place >= 0 and pc < self._mappings[place].end:
            return self._mappings[place]
        return None

    def _locate(self, mapping: Mapping, tid: int) -> tuple[Code, int] | None:
        # Return the code of a mapping, and what the process adds to its addresses.
        code = self.modules.code(
            self.pid, mapping, lambda at, size: self._memory.read(tid, at, size)
        )
        if code is None:
            return None
        bias = code.elf.bias(mapping.start, mapping.offset)
        if bias is None:
            return None
        if self._python and code.runtime:
            self._find_interpreter(code, bias, tid)
        return code, bias

    def _find_interpreter(self, code: Code, bias: int, tid: int) -> None:
        # The code is an interpreter's: from now on its Python frames are read, if possible.
        key = code.number, bias
        if key in self._interpreters:
            return
        runtime = code.runtime + bias & _MASK
        try:
            version_at = code.version + bias & _MASK if code.version else 0
            layout = layout_of(self._memory, tid, runtime, version_at)
            interpreter = Interpreter(self._memory, self.modules.tables, layout, runtime)
        except (Unsupported, *BROKEN) as error:
            self._interpreters[key] = None
            self.modules.lose_python(code.number, str(error))
            return
        self._interpreters[key] = self._interpreter = interpreter


class _FrameRegisters:
    """All registers of one walk, for frames that need more than rsp and rbp: reconstructed from the
    frames that were passed."""

    def __init__(self, words: Sequence[int], memory: Memory, tid: int) -> None:
        self._values = {number: words[word] for number, word in enumerate(_BY_DWARF)}
        self._memory = memory
        self._tid = tid
        self._seen = 0

    def step(
        self, rule: Rule, passed: Sequence[Rule], cfas: Sequence[int], sp: int, rbp: int, pc: int
    ) -> tuple[int, int, int, int] | None:
        """Return CFA, rsp, rbp and the key of the caller, by the whole row; None if they cannot be
        determined."""
        row = rule[5]
        assert isinstance(row, CfiRow)
        try:
            values = self._values
            for place in range(self._seen, len(cfas)):
                for register, offset in passed[place][4]:
                    values[register] = self._word(cfas[place] + offset, 8)
            self._seen = len(cfas) + 1
            values[RSP], values[RBP], values[RA] = sp, rbp, pc
            cfa = self._cfa(row)
            if cfa <= sp and not row.signal:
                return None
            caller = values | {RSP: cfa}
            for register, how in row.registers.items():
                self._recover(register, how, cfa, caller)
            self._values = caller
            ra = caller[RA]
            return cfa, caller[RSP], caller[RBP], ~ra if row.signal else ra - 1
        except BROKEN:
            return None

    def _cfa(self, row: CfiRow) -> int:
        if row.expression is not None:
            return evaluate(row.expression, self._values, self._word)
        return self._values[row.register] + row.offset & _MASK

    def _recover(
        self, register: int, how: tuple[int, int | bytes], cfa: int, caller: dict[int, int]
    ) -> None:
        kind, value = how
        if isinstance(value, bytes):
            result = evaluate(value, self._values, self._word, (cfa,))
            caller[register] = self._word(result, 8) if kind == EXPRESSION else result
        elif kind == OFFSET:
            caller[register] = self._word(cfa + value, 8)
        elif kind == VAL_OFFSET:
            caller[register] = cfa + value & _MASK
        elif kind == REGISTER:
            caller[register] = self._values[value]
        elif kind == UNDEFINED:
            caller.pop(register, None)

    def _word(self, address: int, size: int) -> int:
        data = self._memory.read(self._tid, address, size)
        if len(data) < size or size > 8:
            raise Malformed("memory is not there")
        return int.from_bytes(data, "little")
