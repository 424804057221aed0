"""Starts `laconic` commands quickly: a process that has imported everything forks once per command.

An interpreter needs most of a command's processor time to start and to import. A command that is
started here is still a process of its own, with the environment, arguments, directory, session and
standard streams that `subprocess.Popen` would give it, also in `/proc`; it differs in its parent.
Tests of imports and of the start itself use `subprocess`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: Variables that act when an interpreter or a library is loaded; a fork cannot change them.
LOADING = ("ARROW", "GLIBC", "LANG", "LC_", "LD_", "MALLOC", "OMP", "OPENBLAS", "PYTHON")
READY = b"+"
#: What commands import when they need it.
IMPORTED_LATER = ("numpy", "pyarrow.compute", "pyarrow.parquet", "rich.progress", "rich.table")
_STATUS = struct.Struct("i")


def loading(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that a started process cannot change."""
    return {name: value for name, value in environment.items() if name.startswith(LOADING)}


class Started(NamedTuple):
    """A command that was started: its process id, and the socket that its status comes from."""

    pid: int
    answers: socket.socket

    def wait(self) -> int:
        """Wait for the end; return the exit status, or the negative number of the signal."""
        data = self.answers.recv(_STATUS.size)
        self.answers.close()
        assert data, "the process that starts commands has ended"
        return int(_STATUS.unpack(data)[0])


class Starter:
    """The process that starts commands, as the tests see it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it; `environment` is that of its interpreter."""
        self.loading = loading(environment)
        self.owner = os.getpid()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.is_usable = self._control.recv(1) == READY

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        directory: str,
        streams: tuple[int, int, int],
    ) -> Started:
        """Start `laconic ARGUMENTS` in a session of its own, with these standard streams."""
        request = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "directory": directory,
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        text = os.memfd_create("request")
        try:
            with theirs, open(text, "wb", closefd=False) as file:
                file.write(json.dumps(request).encode())
                file.flush()
                socket.send_fds(self._control, [b"r"], [text, theirs.fileno(), *streams])
        finally:
            os.close(text)
        data = ours.recv(_STATUS.size)
        assert data, "the process that starts commands has ended"
        return Started(_STATUS.unpack(data)[0], ours)


_lock = threading.Lock()
_starters: list[Starter] = []


def starter(environment: Mapping[str, str]) -> Starter | None:
    """This process's starter, or None if it cannot start a command with that environment."""
    with _lock:
        if _starters and _starters[0].owner != os.getpid():
            _starters.clear()  # inherited by a fork: its answers go to the parent
        if not _starters:
            _starters.append(Starter(environment))
    found = _starters[0]
    return found if found.is_usable and found.loading == loading(environment) else None


class _Request(NamedTuple):
    arguments: list[str]
    environment: dict[str, str]
    directory: str


def _serve(control: int) -> _Request:
    # Returns only in the processes that it forks, each with its request; else exits at the end of
    # the control socket. Descriptors are plain numbers: no object closes them in a child.
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and where its status is sent
    while True:
        for fd, _ in poll.poll():
            if fd in running:
                pid, answers = running.pop(fd)
                poll.unregister(fd)
                _, status = os.waitpid(pid, 0)
                _answer(answers, os.waitstatus_to_exitcode(status))
                os.close(answers)
                os.close(fd)
                continue
            with socket.socket(fileno=os.dup(control)) as connection:
                data, descriptors, _, _ = socket.recv_fds(connection, 1, 5)
            if not data:
                os._exit(0)
            text, answers, *streams = descriptors
            pid = os.fork()
            if not pid:
                return _take_over(text, streams)
            for descriptor in (text, *streams):
                os.close(descriptor)
            _answer(answers, pid)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = (pid, answers)
            poll.register(pidfd, select.POLLIN)


def _answer(answers: int, number: int) -> None:
    # Whoever started the command may have ended.
    with contextlib.suppress(OSError):
        os.write(answers, _STATUS.pack(number))


def _take_over(text: int, streams: list[int]) -> _Request:
    # In the new process: what Popen and the interpreter's start would have done.
    os.setsid()
    with open(text, "rb", closefd=False) as file:
        file.seek(0)
        request = _Request(**json.load(file))
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
    os.closerange(3, max(4096, *streams))
    os.chdir(request.directory)
    _show_in_proc(
        [sys.executable, "-m", "laconic", *request.arguments],
        [f"{name}={value}" for name, value in request.environment.items()],
    )
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    sys.path[0] = request.directory
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        raw = io.FileIO(number, mode, closefd=False)
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        inherited = getattr(sys, name)
        stream = io.TextIOWrapper(
            buffer,
            encoding=inherited.encoding,
            errors=inherited.errors,
            line_buffering=number == 2 or raw.isatty(),
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return request


def _show_in_proc(arguments: Sequence[str], environment: Sequence[str]) -> None:
    # /proc/self/cmdline and environ, from which Laconic takes its program's environment.
    texts = [
        b"".join(os.fsencode(word) + b"\0" for word in words) for words in (arguments, environment)
    ]
    _shown[:] = [ctypes.create_string_buffer(text, len(text) + 1) for text in texts]
    with open("/proc/self/stat", "rb") as file:
        fields = [b"", b"", b"", *file.read().rpartition(b")")[2].split()]
    numbers = [int(field) if field.isdigit() else 0 for field in fields]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = ctypes.c_void_p
    area = _Area(
        start_code=numbers[26],
        end_code=numbers[27],
        start_data=numbers[45],
        end_data=numbers[46],
        start_brk=numbers[47],
        brk=libc.sbrk(ctypes.c_long(0)),
        start_stack=numbers[28],
        exe_fd=0xFFFFFFFF,
    )
    for name, buffer, text in zip(("arg", "env"), _shown, texts, strict=True):
        setattr(area, f"{name}_start", ctypes.addressof(buffer))
        setattr(area, f"{name}_end", ctypes.addressof(buffer) + len(text))
    numbers = [PR_SET_MM, PR_SET_MM_MAP, ctypes.addressof(area), ctypes.sizeof(area), 0]
    if libc.prctl(*map(ctypes.c_ulong, numbers)):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_MM, PR_SET_MM_MAP)")


PR_SET_MM, PR_SET_MM_MAP = 35, 14
#: The memory that /proc shows as arguments and environment.
_shown: list[ctypes.Array[ctypes.c_char]] = []


class _Area(ctypes.Structure):
    """struct prctl_mm_map of linux/prctl.h."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in (
                "start_code", "end_code", "start_data", "end_data", "start_brk", "brk",
                "start_stack", "arg_start", "arg_end", "env_start", "env_end", "auxv",
            )
        ),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )  # fmt: skip


def _import_everything() -> None:
    import laconic.commands  # first: the order of its exit functions

    for module in pkgutil.walk_packages(laconic.__path__, "laconic."):
        if module.name not in ("laconic.__main__", "laconic.pytest_plugin"):
            importlib.import_module(module.name)
    for name in IMPORTED_LATER:
        importlib.import_module(name)


def _main() -> None:
    _import_everything()
    gc.collect()
    gc.freeze()  # a child's collection would copy the pages of every object
    signal.signal(signal.SIGINT, signal.default_int_handler)
    control = int(sys.argv[1])
    try:
        _show_in_proc(sys.orig_argv, [f"{name}={value}" for name, value in os.environ.items()])
    except OSError:
        os.write(control, b"-")  # a kernel without CONFIG_CHECKPOINT_RESTORE
    else:
        os.write(control, READY)
    request = _serve(control)
    sys.argv[:] = ["laconic", *request.arguments]
    runpy.run_module("laconic", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
