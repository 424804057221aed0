"""Starting a program under the tracer, as a shell would start it."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
from collections.abc import Sequence

from laconic.errors import CannotRun, NoTracing
from laconic.tracer import ptrace
from laconic.tracer.seccomp import build_filter, pack_filter
from laconic.tracer.signals import change_mask

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SYS_SECCOMP = 317

OPTIONS = ptrace.O_FOLLOW | ptrace.O_TRACESECCOMP | ptrace.O_EXITKILL


def resolve(command: str) -> str:
    """Return the file that `command` names, searching PATH if it has no slash.

    Raises CannotRun with a shell's status: 127 if there is no such file, 126 if it cannot be
    executed.
    """
    if not command:
        raise CannotRun("the command is empty: name a program after --", 127)
    path = command if "/" in command else shutil.which(command) or shutil.which(command, os.F_OK)
    if path is None:
        raise CannotRun(f"{command!r} was not found in PATH: check its name, or give its path", 127)
    if os.path.isdir(path):
        raise CannotRun(f"{path!r} is a directory: name a program in it", 126)
    if not os.path.exists(path):
        raise CannotRun(f"{path!r} does not exist: check the path", 127)
    if not os.access(path, os.X_OK):
        raise CannotRun(
            f"{path!r} may not be executed: chmod +x it, or name its interpreter first", 126
        )
    return path


def launch(argv: Sequence[str], mask: int) -> int:
    """Start `argv` as a traced child that waits for `release`, then installs the filter and
    executes; return its pid.

    `mask` is the program's signal mask. The child's first stops are reported by wait, as those of
    any other thread. Raises CannotRun, or NoTracing if the kernel or the container forbids ptrace
    or seccomp.
    """
    path = resolve(argv[0])
    go_read, go_write = os.pipe()
    report_read, report_write = os.pipe()
    program = pack_filter(build_filter())
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        _become(path, argv, program, go_read, report_write, mask)
    os.close(go_read)
    os.close(report_write)
    if not ptrace.seize(pid, OPTIONS):
        os.close(go_write)
        os.close(report_read)
        os.waitpid(pid, 0)
        raise NoTracing(
            "ptrace was refused for a child of Laconic's own: run `laconic doctor`; in a "
            "container, add --cap-add=SYS_PTRACE or a seccomp profile that allows ptrace; under "
            "another tracer (strace, gdb, laconic) leave that first"
        )
    launched[pid] = report_read
    waiting[pid] = go_write
    return pid


#: Children that have not executed yet → the pipe on which they report why they could not.
launched: dict[int, int] = {}
#: Children that wait for `release` → the pipe on which they wait.
waiting: dict[int, int] = {}


def release(pid: int) -> None:
    """Let a child that `launch` started execute its program."""
    go = waiting.pop(pid)
    os.write(go, b"g")
    os.close(go)


def failure(pid: int, argv: Sequence[str]) -> Exception | None:
    """Return why a child that ended, or executed, could not start; None if it could. Can be queried
    once per child."""
    pipe = launched.pop(pid, None)
    if pipe is None:
        return None
    report = os.read(pipe, 64)
    os.close(pipe)
    if not report:
        return None
    step, _, number = report.partition(b" ")
    code = int(number)
    reason = f"{errno.errorcode.get(code, code)}: {os.strerror(code)}"
    if step == b"exec":
        hint = " (is its interpreter, or its #! line, there?)" if code == errno.ENOENT else ""
        return CannotRun(
            f"{argv[0]!r} could not be executed, {reason}{hint}",
            127 if code == errno.ENOENT else 126,
        )
    return NoTracing(
        f"the seccomp filter was refused, {reason}: run `laconic doctor` to see what is missing"
    )


def install_filter(program: bytes) -> int:
    """Install a packed filter on the calling thread; return 0 or an errno.

    Without CAP_SYS_ADMIN the kernel requires no_new_privs, which keeps set-user-id programs from
    changing user. A traced program could not change user in any case.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    for attempt in range(2):
        if libc.syscall(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, 0, fprog) == 0:
            return 0
        if attempt == 0 and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            break
    return ctypes.get_errno()


def program_environment() -> list[bytes]:
    """Return the environment as Laconic received it, entry by entry; Python has changed its own
    copy (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            return _mended(file.read().split(b"\0")[:-1])
    except OSError:
        return [name + b"=" + value for name, value in os.environb.items()]


def _mended(entries: list[bytes]) -> list[bytes]:
    # Before parse_tunables was rewritten, ld.so terminated each tunable in place with a NUL, and
    # pointed the variable to a copy of the value.
    name = b"GLIBC_TUNABLES"
    whole = name + b"=" + os.environb.get(name, b"")
    for place, entry in enumerate(entries):
        if entry.startswith(name + b"="):
            for end in range(place + 1, len(entries) + 1):
                if b":".join(entries[place:end]) == whole:
                    return [*entries[:place], whole, *entries[end:]]
    return entries


def execute(path: str, argv: Sequence[str], environment: Sequence[bytes]) -> int:
    """Call execve(2) with exactly this environment, duplicate names included; return the errno, and
    only on failure."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [os.fsencode(word) for word in argv]
    libc.execve(
        os.fsencode(path),
        (ctypes.c_char_p * (len(words) + 1))(*words, None),
        (ctypes.c_char_p * (len(environment) + 1))(*environment, None),
    )
    return ctypes.get_errno()


def _is_script(path: str) -> bool:
    # A shell's test for a script: not a binary, and no NUL in the first line.
    with open(path, "rb") as file:
        line = file.readline(256)
    return not line.startswith(b"\x7fELF") and b"\0" not in line


def _become(
    path: str, argv: Sequence[str], program: bytes, go: int, report: int, mask: int
) -> None:
    # Runs in the child, and never returns.
    environment = program_environment()
    step = b"seccomp"
    code = 1
    try:
        if os.read(go, 1) == b"g":
            # Python ignores these two; a program started by a shell finds them at their defaults.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            change_mask(signal.SIG_SETMASK, mask)
            code = install_filter(program)
            if code == 0:
                step = b"exec"
                code = execute(path, argv, environment)
                if code == errno.ENOEXEC and _is_script(path):
                    # A script without a #! line: execvp passes it to the shell.
                    code = execute("/bin/sh", ["/bin/sh", path, *argv[1:]], environment)
    except OSError as error:
        code = error.errno or 1
    finally:
        os.write(report, step + b" " + str(code).encode())
        os._exit(127)
