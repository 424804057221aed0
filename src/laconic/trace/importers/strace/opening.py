"""The calls in a log that open, copy and close descriptors, and those that change the working
directory."""

from __future__ import annotations

import re
from collections.abc import Callable

from laconic.linux.clone import CLONE_FILES, CLONE_FS
from laconic.trace.importers.strace.arguments import annotation, bare, number, unquote
from laconic.trace.importers.strace.descriptors import MOST, Descriptor, StraceDescriptors
from laconic.trace.importers.strace.memory import FlagNumbers
from laconic.trace.importers.strace.names import O_CLOEXEC
from laconic.trace.importers.strace.processes import StraceThread

_OPEN = re.compile(rb'AT_FDCWD, "([^"\\]+)", ([A-Z_|]+)(?:, 0\d*)?\) += (\d+)$')
_ABSENT = b") = -1 ENOENT (No such file or directory)"
_HUGETLB = 4
_F_DUPFD, _F_SETFD, _F_DUPFD_CLOEXEC = 0, 2, 1030
_CLOSE_RANGE_UNSHARE, _CLOSE_RANGE_CLOEXEC = 2, 4
#: Calls whose result is a new descriptor without a path → the kind of descriptor.
_NAMELESS = {
    "socket": b"socket:[]",
    "accept": b"socket:[]",
    "accept4": b"socket:[]",
    "epoll_create": b"anon_inode:[eventpoll]",
    "epoll_create1": b"anon_inode:[eventpoll]",
    "eventfd": b"anon_inode:[eventfd]",
    "eventfd2": b"anon_inode:[eventfd]",
    "signalfd": b"anon_inode:[signalfd]",
    "signalfd4": b"anon_inode:[signalfd]",
    "timerfd_create": b"anon_inode:[timerfd]",
    "inotify_init": b"anon_inode:inotify",
    "inotify_init1": b"anon_inode:inotify",
    "fanotify_init": b"anon_inode:[fanotify]",
    "pidfd_open": b"anon_inode:[pidfd]",
    "userfaultfd": b"anon_inode:[userfaultfd]",
    "memfd_secret": b"/secretmem (deleted)",
    "perf_event_open": b"anon_inode:[perf_event]",
    "io_uring_setup": b"anon_inode:[io_uring]",
    "bpf": b"anon_inode:bpf",
    "mq_open": b"mqueue:",
    "open_tree": b"",
    "fsopen": b"anon_inode:[fscontext]",
    "pidfd_getfd": b"",
    "open_by_handle_at": b"",
    "landlock_create_ruleset": b"anon_inode:[landlock-ruleset]",
    "fsmount": b"",
}


class Opening:
    """Maintains the tables of descriptors. `flags` are the numbers of flags and constants."""

    def __init__(self, flags: FlagNumbers) -> None:
        self.flags = flags
        self.quick: dict[bytes, Callable[[StraceThread, int, bytes], None]] = {
            b"openat": self._quick_openat,
            b"close": self._quick_close,
        }
        self.calls: dict[str, Callable[[str, StraceDescriptors, list[bytes], int], None]] = {
            "open": self._open,
            "creat": self._open,
            "openat": self._openat,
            "openat2": self._openat2,
            "memfd_create": self._memfd_create,
            "dup": self._dup,
            "dup2": self._dup,
            "dup3": self._dup,
            "fcntl": self._fcntl,
            "close": self._close,
            "close_range": self._close_range,
            "pipe": self._pair,
            "pipe2": self._pair,
            "socketpair": self._pair,
            "chdir": self._chdir,
            "fchdir": self._fchdir,
            "getcwd": self._getcwd,
            **dict.fromkeys(_NAMELESS, self._nameless),
        }

    def call(
        self, name: str, thread: StraceThread, args: list[bytes], result: int, rest: bytes
    ) -> None:
        """Apply the effect of a call that succeeded."""
        if result < 0:
            return
        if name == "unshare":
            if self.flags[args[0]] & (CLONE_FILES | CLONE_FS):
                thread.files = thread.files.copy()
            return
        files = thread.files
        self.calls[name](name, files, args, result)
        if args and args[0].startswith(b"AT_FDCWD<"):
            self._learn_cwd(files, args[0])
        if name not in _MAKES_NONE and rest.startswith(b"<"):
            # The path that -y shows after the result is the kernel's own name.
            shown = annotation(str(result).encode() + rest)
            known = files.table.get(result)
            if shown is not None and known is not None and shown[0].startswith(b"/"):
                files.table[result] = known._replace(path=shown[0])

    def _quick_openat(self, thread: StraceThread, time: int, text: bytes) -> None:
        match = _OPEN.match(text)
        if match is None:
            if text.endswith(_ABSENT):
                return
            raise ValueError
        files = thread.files
        files.open(int(match[3]), files.resolve(b"", match[1]), self.flags[match[2]])

    def _quick_close(self, thread: StraceThread, time: int, text: bytes) -> None:
        fd = text.partition(b")")[0]
        thread.files.table.pop(int(fd if fd.isdigit() else fd.partition(b"<")[0]), None)

    def _open(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        path = unquote(args[0])
        flags = 1 if name == "creat" else self.flags[args[1]]
        files.open(result, files.resolve(b"", path) if path is not None else b"", flags)

    def _openat(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        files.open(result, self._at(files, args), self.flags[args[2]])

    def _openat2(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        match = re.search(rb"flags=([^,}]+)", args[2])
        files.open(result, self._at(files, args), self.flags[match[1].strip()] if match else 2)

    def _at(self, files: StraceDescriptors, args: list[bytes]) -> bytes:
        path = unquote(args[1])
        if path is None:
            return b""
        shown = annotation(args[0])
        if shown is not None:
            return files.resolve(shown[0], path)
        directory = number(args[0])
        if directory >> 63 or directory == 0xFFFFFF9C:
            return files.resolve(b"", path)
        known = files.table.get(directory)
        if known is None and not path.startswith(b"/"):
            return b""
        return files.resolve(known.path if known else b"", path)

    def _memfd_create(
        self, name: str, files: StraceDescriptors, args: list[bytes], result: int
    ) -> None:
        flags = self.flags[args[1]]
        path = b"/memfd:" + (unquote(args[0]) or b"") + b" (deleted)"
        files.open(result, path, 2 | (O_CLOEXEC if flags & 1 else 0))
        if flags & _HUGETLB and result in files.table:
            known = files.table[result]
            files.table[result] = known._replace(mode=known.mode & ~(4 | 16))

    def _dup(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        cloexec = name == "dup3" and bool(self.flags[args[2]] & O_CLOEXEC)
        old = number(args[0])
        if old != result:
            files.dup(old, result, cloexec)

    def _fcntl(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        try:
            command = self.flags[args[1]]
        except ValueError:
            return
        fd = number(args[0])
        if command in (_F_DUPFD, _F_DUPFD_CLOEXEC):
            files.dup(fd, result, command == _F_DUPFD_CLOEXEC)
        elif command == _F_SETFD and fd in files.table:
            files.table[fd] = files.table[fd]._replace(cloexec=bool(self.flags[args[2]] & 1))

    def _close(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        files.table.pop(number(args[0]), None)

    def _close_range(
        self, name: str, files: StraceDescriptors, args: list[bytes], result: int
    ) -> None:
        first, last, flags = number(args[0]), number(args[1]), self.flags[args[2]]
        for fd in [fd for fd in files.table if first <= fd <= last]:
            if flags & _CLOSE_RANGE_CLOEXEC:
                files.table[fd] = files.table[fd]._replace(cloexec=True)
            else:
                del files.table[fd]

    def _pair(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        text, flags = (
            (args[-1], b"")
            if name == "socketpair"
            else (args[0], args[1] if len(args) > 1 else b"")
        )
        if name == "socketpair":
            flags = args[1]
        cloexec = b"CLOEXEC" in flags
        path = b"socket:[]" if name == "socketpair" else b"pipe:[]"
        for fd in re.findall(rb"[\[ ](\d{1,9})(?=[<,\]])", bare(text)):
            files.open(int(fd), path, 2 | (O_CLOEXEC if cloexec else 0))

    def _nameless(
        self, name: str, files: StraceDescriptors, args: list[bytes], result: int
    ) -> None:
        path = _NAMELESS[name]
        if len(files.table) >= MOST:
            return
        if path:
            cloexec = any(b"CLOEXEC" in each for each in args) or name == "pidfd_open"
            files.open(result, path, 2 | (O_CLOEXEC if cloexec else 0))
        else:
            files.table[result] = Descriptor(b"", 0)

    def _chdir(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        path = unquote(args[0])
        files.cwd = (
            files.resolve(b"", path)
            if path is not None and (files.cwd or path[:1] == b"/")
            else b""
        )

    def _fchdir(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        shown = annotation(args[0])
        known = files.table.get(number(args[0]))
        files.cwd = shown[0] if shown else known.path if known else b""

    def _getcwd(self, name: str, files: StraceDescriptors, args: list[bytes], result: int) -> None:
        files.cwd = unquote(args[0]) or files.cwd

    def _learn_cwd(self, files: StraceDescriptors, argument: bytes) -> None:
        shown = annotation(argument)
        if shown is not None:
            files.cwd = shown[0]


_MAKES_NONE = {"close", "close_range", "pipe", "pipe2", "socketpair", "chdir", "fchdir", "getcwd"}
