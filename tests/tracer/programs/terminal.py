"""Runs a command in a terminal of its own, 33 rows by 101 columns, and prints what that shows.

`terminal.py [-c] COMMAND...`: -c types ^C once the command has said "ready". Exits with the
command's status.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import sys
import termios


def main() -> int:
    words = sys.argv[1:]
    interrupt = words[:1] == ["-c"]
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        # Python ignores these two.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        command = words[interrupt:]
        os.execvp(command[0], command)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break  # EIO: the last that had it open is gone
        if not piece:
            break
        seen += piece
        if interrupt and b"ready" in seen:
            interrupt = False
            os.write(master, b"\x03")
    _, status = os.waitpid(pid, 0)
    sys.stdout.buffer.write(seen.replace(b"\r\n", b"\n"))
    return os.waitstatus_to_exitcode(status) & 0xFF


sys.exit(main())
