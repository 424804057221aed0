"""Attaching to processes that are already running: every thread is seized, observed, and left as it
was.

A running program cannot be given a seccomp filter from outside, so each of its threads stops before
and after every system call (PTRACE_SYSCALL). Laconic changes nothing in the program: no register
(except the result of a wait that attaching itself interrupted), no memory, and no signal mask. The
program therefore survives the end of Laconic: when a tracer ends, the kernel detaches its threads
(exit_ptrace, kernel/ptrace.c) without stopping those that run, and wakes those that are stopped.
Laconic detaches in the same way: the tracer is a separate thread, which ends to detach.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from laconic.errors import LaconicError, NoTracing
from laconic.memory.flags import TASK_SIZE, VM_GROWSDOWN
from laconic.memory.mmap import page_align
from laconic.memory.space import AddressSpace
from laconic.tracer import ptrace
from laconic.tracer.loop import STOP_SIGNALS, SYSCALL_STOP, Tracer, address_space
from laconic.tracer.mediate import Mediator
from laconic.tracer.process import (
    TracedMm,
    TracedThread,
    command_name,
    is_64_bit,
    status_line,
    thread_group,
)
from laconic.tracer.ptrace import DETACH, LISTEN, SYSCALL
from laconic.tracer.syscalls import (
    BY_FIRST_ARGUMENT,
    I386_MEMORY_CALLS,
    MEMORY_CALLS,
    PERSONALITY,
    PROCESS_CALLS,
    X32_BIT,
)

#: As `launch.OPTIONS`, without EXITKILL and without a filter's stops.
OPTIONS = ptrace.O_FOLLOW
_FOLLOWED = frozenset({*MEMORY_CALLS, *PROCESS_CALLS})
_CONDITIONAL = {**BY_FIRST_ARGUMENT}
_PERSONALITY_QUERY = 0xFFFFFFFF
_WALL = 0x40000000
_SYS_KCMP, _KCMP_VM = 312, 1
#: A wait shorter than this (seconds) is followed by some polls, as in `ptrace.Waiter`.
_BRISK = 0.0002
_POLLS = range(100)
#: Seconds after which a thread that has not stopped is examined, and after which attaching fails.
_PATIENCE, _LONGEST = 0.5, 10.0
#: Seconds that memory calls in progress have to finish before the recording ends.
_LEAVING = 1.0
#: PF_KTHREAD (include/linux/sched.h)
_KERNEL_THREAD = 0x200000
_CAP_SYS_PTRACE = 19


class Waker:
    """Wakes a thread that waits for any child: a child that does nothing, and exits to wake it.

    Create it before any thread.
    """

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._write)
            os.read(read, 1)
            os._exit(0)
        os.close(read)

    def wake(self) -> None:
        """Make the child exit."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def is_it(self, pid: int) -> bool:
        """True if `pid`, which was waited for, is the child."""
        return pid == self._pid


class Attachment:
    """Observes one running process, its descendants, and everything that they start.

    `attached` is set when observing begins; `held` is the time in seconds for which the threads
    were stopped until then.
    """

    def __init__(
        self,
        mediator: Mediator,
        pid: int,
        waiting: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.pid = pid
        self.mediator = mediator
        self.tracer = Tracer(mediator, waiting)
        self.attached = threading.Event()
        self.held = 0.0
        self.failure: BaseException | None = None
        self._leaving = False
        self._waker: Waker
        self._native_id = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        # Threads whose next stop at a call is the end of a call that is not followed.
        self._passing: set[int] = set()
        # During attaching: the process's address space, and for each thread that has stopped, the
        # signal to deliver or LISTEN.
        self._mms: dict[int, TracedMm] = {}
        self._stopped: dict[int, int] = {}
        # Threads that were interrupted and have not stopped yet.
        self._awaited: set[int] = set()
        self._brisk = False

    # From other threads

    def start(self) -> None:
        """Start attaching. Every signal that should end Laconic cleanly, and SIGCHLD, must be
        blocked, and no other thread may exist yet."""
        self._waker = Waker()
        self._thread.start()

    def leave(self) -> None:
        """Make the tracer detach from the program cleanly."""
        self._leaving = True
        self._waker.wake()

    def ended(self) -> bool:
        """True once the tracer has detached from the program, or the program has ended."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Wait until the tracer has detached from the program. Raises the error with which the
        tracer failed, if any."""
        self._thread.join()
        self._waker.wake()
        task = f"/proc/self/task/{self._native_id}"
        while self._native_id and os.path.exists(task):
            time.sleep(0.001)  # the kernel detaches from the program when the thread is gone
        if self.failure is not None:
            raise self.failure

    def processes(self) -> int:
        """The number of processes that are followed now."""
        return len({thread.tgid for thread in list(self.tracer.threads.values())})

    # The tracer's thread

    def _run(self) -> None:
        self._native_id = threading.get_native_id()
        try:
            self._attach()
            self.attached.set()
            self._follow()
        except BaseException as error:
            self.failure = error

    def _follow(self) -> None:
        tracer = self.tracer
        registers = self.mediator.registers
        passing = self._passing
        deadline = 0.0
        while True:
            if self._leaving:
                deadline = deadline or time.monotonic() + _LEAVING
                if self._left(deadline):
                    return
            if not tracer.threads and not tracer.early:
                return
            try:
                tid, status = self._wait(0.02 if self._leaving else None)
            except ChildProcessError:
                return
            if not tid:
                continue
            if status >> 8 != SYSCALL_STOP:
                passing.discard(tid)
                if tid in self._awaited:
                    self._late(tid, status)
                tracer.take(tid, status, ())
                continue
            if tid in passing:
                passing.remove(tid)
                ptrace.resume(SYSCALL, tid)
                continue
            thread = tracer.threads.get(tid)
            if thread is None:
                ptrace.resume(SYSCALL, tid)
            elif stop := registers.call(tid):
                if self._is_followed(stop):
                    tracer.at_call(thread, stop)
                else:
                    passing.add(tid)
                    ptrace.resume(SYSCALL, tid)
            elif thread.awaits_exit or thread.child_flags is not None or thread.path is not None:
                tracer.at_end(thread)
            else:
                ptrace.resume(SYSCALL, tid)

    def _is_followed(self, stop: tuple[int, ...]) -> bool:
        # As the filter decides (laconic.tracer.seccomp).
        number = stop[1]
        if number in _FOLLOWED:
            if self.mediator.registers.is_i386():
                return number in I386_MEMORY_CALLS
            arguments = _CONDITIONAL.get(number)
            if arguments is not None:
                return stop[2] & 0xFFFFFFFF in arguments
            return number != PERSONALITY or stop[2] & 0xFFFFFFFF != _PERSONALITY_QUERY
        if number in I386_MEMORY_CALLS:
            return self.mediator.registers.is_i386()
        if X32_BIT <= number < 1 << 32:
            return not self.mediator.registers.is_i386()
        return False

    def _wait(self, seconds: float | None) -> tuple[int, int]:
        # Return the next stop or end: the thread and its wait status; (0, 0) after `seconds`, or
        # when another thread wakes this one.
        if seconds is not None:
            stop = os.waitpid(-1, _WALL | os.WNOHANG)
            if stop[0]:
                return stop
            # SIGCHLD is sent for every stop, and stays pending while it is blocked.
            signal.sigtimedwait({signal.SIGCHLD}, seconds)
            return os.waitpid(-1, _WALL | os.WNOHANG)
        if self._brisk:
            for _ in _POLLS:
                stop = os.waitpid(-1, _WALL | os.WNOHANG)
                if stop[0]:
                    return stop
                os.sched_yield()
        began = time.monotonic()
        tid, status = os.waitpid(-1, _WALL)
        self._brisk = time.monotonic() - began < _BRISK
        return (0, 0) if self._waker.is_it(tid) else (tid, status)

    # Attaching

    def _attach(self) -> None:
        began = time.monotonic()
        if not self._seize(self.pid):
            raise refusal(self.pid)
        fresh = True
        while fresh:
            fresh = False
            for pid in descendants(self.pid):
                fresh |= self._seize(pid)  # it may have started another before
        self._gather(began)
        self._begin()
        for tid, how in self._stopped.items():
            self._resume(tid, how)
        self.held = time.monotonic() - began
        self._awaited -= {*self._stopped}

    def _seize(self, pid: int) -> bool:
        # Seize the threads of a process; return True if there was a new one.
        found = False
        fresh = True
        while fresh:
            fresh = False
            for tid in tasks(pid):
                if tid not in self.tracer.threads and ptrace.seize(tid, OPTIONS):
                    self._add(tid, pid)
                    ptrace.interrupt(tid)
                    found = fresh = True
        return found

    def _add(self, tid: int, pid: int) -> None:
        mm = self._mms.setdefault(pid, TracedMm(None))
        self.tracer.threads[tid] = TracedThread(tid, pid, mm)
        self._awaited.add(tid)

    def _gather(self, began: float) -> None:
        # Wait until every thread has stopped, or is known not to be in a memory call.
        while missing := self._awaited - {*self._stopped}:
            if self._leaving:
                raise _left_before()
            waited = time.monotonic() - began
            if waited > _PATIENCE and not any(map(_may_map, missing)):
                return
            if waited > _LONGEST:
                tid = min(missing)
                raise LaconicError(
                    f"thread {tid} of {command_name(tid)} did not stop in {_LONGEST:g} s, and may "
                    "be in a memory call: the program was left; try again later"
                )
            tid, status = self._wait(0.02)
            if tid:
                self._gathered(tid, status)

    def _gathered(self, tid: int, status: int) -> None:
        # Handle one stop or end of a thread while other threads are still awaited.
        threads = self.tracer.threads
        if status & 0xFF != 0x7F:
            self._lose(tid)
            return
        stop_signal, event = status >> 8 & 0xFF, status >> 16
        if event == ptrace.EVENT_EXIT:
            ptrace.resume(DETACH, tid)
            self._lose(tid)
            return
        if event == ptrace.EVENT_EXEC:
            for other in [other for other in threads if threads[other].tgid == tid]:
                self._lose(other)
        if tid not in threads:
            self._add(tid, thread_group(tid))
        if event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
            child = ptrace.event_message(tid)
            if child and child not in threads:
                self._add(child, thread_group(child))
        how = stop_signal
        if event == ptrace.EVENT_STOP and stop_signal in STOP_SIGNALS:
            how = LISTEN
        elif event:
            how = 0
        self._stopped[tid] = how

    def _lose(self, tid: int) -> None:
        thread = self.tracer.threads.pop(tid, None)
        if thread is not None:
            thread.leave()
        self._stopped.pop(tid, None)
        self._awaited.discard(tid)

    def _resume(self, tid: int, how: int) -> None:
        if how == LISTEN:
            ptrace.resume(LISTEN, tid)
            return
        self.tracer.restart_interrupted(tid, how)
        ptrace.resume(SYSCALL, tid, how)

    def _late(self, tid: int, status: int) -> None:
        # The first stop of a thread that could not stop while the others were stopped.
        self._awaited.discard(tid)
        if status >> 16 == ptrace.EVENT_STOP:
            self.tracer.restart_interrupted(tid, status >> 8 & 0xFF)

    # The state in which a program is found

    def _begin(self) -> None:
        ledger = self.mediator.ledger
        processes = self._by_process()
        if self.pid not in processes:
            raise LaconicError(f"process {self.pid} ended while laconic attached to it")
        for pid in descendants(self.pid):
            if pid not in processes and any(map(_is_alive, tasks(pid))):
                ledger.note(f"{refusal(pid)}: its memory calls are not counted")
        firsts: dict[int, TracedThread] = {}
        for pid, threads in processes.items():
            ledger.processes += 1
            first = next((thread for thread in threads if thread.tid == pid), threads[0])
            sharer = next((pid for pid, one in firsts.items() if _share(first.tid, one.tid)), None)
            if sharer is None:
                firsts[pid] = first
                self._begin_space(first)
            else:
                for thread in threads:
                    thread.leave()
                    thread.mm = firsts[sharer].mm
                    thread.mm.threads.add(thread.tid)
            if self.mediator.recorder is None:
                continue
            for thread in threads:
                if thread is not firsts.get(pid):
                    self.mediator.recorder.running_thread(thread, pid if sharer is None else sharer)

    def _by_process(self) -> dict[int, list[TracedThread]]:
        # The threads of each process; the thread that the user named comes first.
        processes: dict[int, list[TracedThread]] = {}
        for thread in self.tracer.threads.values():
            processes.setdefault(thread.tgid, []).append(thread)
        return dict(sorted(processes.items(), key=lambda item: item[0] != self.pid))

    def _begin_space(self, thread: TracedThread) -> None:
        mm, recorder = thread.mm, self.mediator.recorder
        is_64 = is_64_bit(thread.tid)
        if is_64:
            try:
                mm.space = address_space(thread)
                _find_break(mm, thread.tid)
                _find_base(mm.space)
            except OSError:
                mm.space = None  # it is being killed
        else:
            self.mediator.ledger.note(
                f"{command_name(thread.tid)} is a 32-bit program: it runs untouched, and its "
                "memory calls are not counted"
            )
        if recorder is not None:
            recorder.program(thread, mm.space, 64 if is_64 else 32, running=True)

    # Leaving

    def _left(self, deadline: float) -> bool:
        # End the recording of each address space in which no call is in progress; return whether
        # all have ended.
        tracer = self.tracer
        over = time.monotonic() > deadline
        mms = {id(thread.mm): thread.mm for thread in tracer.threads.values()}.values()
        for mm in mms:
            if mm.space is None or (mm.busy is not None and not over):
                continue
            thread = next(tracer.threads[tid] for tid in mm.threads if tid in tracer.threads)
            if tracer.checker.each_exit:
                tracer.checker.check(thread)
            tracer.leave(mm)
            mm.space = None
        return over or all(mm.space is None for mm in mms)


def _left_before() -> LaconicError:
    return LaconicError(
        "interrupted before every thread had stopped: the program was left as it was"
    )


def _may_map(tid: int) -> bool:
    # True unless the kernel shows that the thread waits in a call that does not change memory.
    try:
        with open(f"/proc/{tid}/syscall", "rb") as file:
            number = file.read().split()[0]
    except (OSError, IndexError):
        return False
    return number == b"running" or int(number) in _FOLLOWED - _WAITING


#: Process calls in which a thread may wait for its child: vfork, and clone with CLONE_VFORK.
_WAITING = {56, 58, 435}


def _share(tid: int, other: int) -> bool:
    # True if both threads have the same address space (kcmp(2)).
    libc = ctypes.CDLL(None)
    return bool(libc.syscall(_SYS_KCMP, tid, other, _KCMP_VM, 0, 0) == 0)


def _find_break(mm: TracedMm, tid: int) -> None:
    # The page that contains the break: the end of the VMA that /proc/PID/maps labels as the heap
    # (vma_is_initial_heap, include/linux/mm.h). The kernel does not show the exact byte of the
    # break.
    assert mm.space is not None
    mm.break_known = False
    with open(f"/proc/{tid}/maps", "rb") as file:
        for line in file:
            if line.endswith(b" [heap]\n"):
                mm.space.brk = int(line.partition(b"-")[2].split()[0], 16)
    mm.space.brk = max(mm.space.brk, page_align(mm.space.start_brk))


def _find_base(space: AddressSpace) -> None:
    # mmap_base: ld.so, or the vDSO of newer kernels, was the first mapping below it. If that was
    # unmapped, the address that the host chooses differs from the predicted one.
    layout = space.layout
    if not layout.top_down:
        return
    base = 0
    for _, end, vma in space.vmas:
        if vma.flags & VM_GROWSDOWN and end > TASK_SIZE - (TASK_SIZE >> 3):
            break
        base = end
    if base > TASK_SIZE - (TASK_SIZE >> 3):
        layout.mmap_base = base
        if not any(vma.flags & VM_GROWSDOWN for start, _, vma in space.vmas if start < base):
            layout.quiet_below = base


# The processes


def tasks(pid: int) -> list[int]:
    """Return the threads of a process; empty if the process is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Return the descendants of `pid`, without this process and its own descendants.
    O(processes)."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    left = [pid]
    while left:
        for child in children.get(left.pop(), ()):
            if child != os.getpid():
                found.append(child)
                left.append(child)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    yield int(name), int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue


# Processes that cannot be attached to


def check(pid: int) -> int:
    """Return the process of a process or thread that Laconic may attach to. Raises LaconicError
    with the reason if it may not."""
    if not os.path.exists(f"/proc/{pid}"):
        raise LaconicError(f"there is no process {pid}; ps -e lists the processes")
    pid = thread_group(pid)
    if pid == os.getpid():
        raise LaconicError(f"process {pid} is laconic itself; name another process")
    name = f"process {pid} ({command_name(pid)})"
    if _is_kernel_thread(pid):
        raise LaconicError(f"{name} is a thread of the kernel, and makes no calls; name a program")
    if not any(_is_alive(tid) for tid in tasks(pid)):
        raise LaconicError(
            f"{name} has ended, and its parent has not waited for it; name a process that runs"
        )
    tracer = thread_group(int(status_line(pid, "TracerPid") or 0))
    if tracer:
        raise LaconicError(
            f"{name} is traced by process {tracer} ({command_name(tracer)}), and Linux permits one "
            "tracer; end that one first"
        )
    if not is_64_bit(pid):
        raise LaconicError(f"{name} is a 32-bit program, and Laconic follows 64-bit programs only")
    return pid


def refusal(pid: int) -> LaconicError:
    """Return an error that says why the kernel does not let a process be traced, and how to fix
    that."""
    try:
        check(pid)
    except LaconicError as error:
        return error
    name = f"process {pid} ({command_name(pid)})"
    scope = yama_scope()
    if scope == 3:
        return NoTracing(
            f"{name} may not be traced: kernel.yama.ptrace_scope is 3, which forbids it until this "
            "machine is started again; set 0, 1 or 2 in /etc/sysctl.d, and restart it"
        )
    user = _user(pid)
    if user != os.geteuid() and not capable(_CAP_SYS_PTRACE):
        return NoTracing(f"{name} belongs to user {user}; run laconic as root, or as that user")
    if scope and not capable(_CAP_SYS_PTRACE):
        return NoTracing(
            f"{name} may not be traced: kernel.yama.ptrace_scope is {scope}; run laconic as root, "
            "or sysctl kernel.yama.ptrace_scope=0"
        )
    return NoTracing(
        f"{name} may not be traced: it has other privileges than laconic (set-user-id, or "
        "prctl(PR_SET_DUMPABLE)), or this container forbids ptrace; run laconic as root, in a "
        "container with --cap-add=SYS_PTRACE"
    )


def _is_alive(tid: int) -> bool:
    return (status_line(tid, "State") or "Z")[0] not in "ZX"


def _is_kernel_thread(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & _KERNEL_THREAD)
    except (OSError, IndexError):
        return False


def _user(pid: int) -> int:
    return int((status_line(pid, "Uid") or "-1").split()[0])


def yama_scope() -> int | None:
    """Return kernel.yama.ptrace_scope, or None if this kernel has no Yama."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def capable(capability: int) -> bool:
    """True if this process has a capability, by its number."""
    return bool(int(status_line(os.getpid(), "CapEff") or "0", 16) >> capability & 1)
