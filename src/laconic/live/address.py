"""The addresses at which a running program can be watched: those of `--listen` and `--connect`.

An address is the path of a Unix socket, or `tcp:[HOST:]PORT`, whose host is this machine
(127.0.0.1). In both cases only processes of the same user receive an answer.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator

from laconic.errors import LaconicError

_TCP = "tcp:"
_LOOPBACK = ("127.0.0.1", "localhost", "")
#: The maximum length of a Unix socket's path, with its terminator (sun_path in
#: include/uapi/linux/un.h).
_LONGEST = 107
#: struct ucred: pid, uid, gid.
_UCRED = struct.Struct("iII")
_CONNECTED = "01"


def listen(address: str) -> tuple[socket.socket, str, str]:
    """Return a socket that listens at an address, with the address that viewers connect to, and the
    path of its file, "" if it has none. Raises LaconicError."""
    if address.startswith(_TCP):
        return _listen_tcp(address)
    path = os.path.abspath(address) if address else _own_path()
    _check_length(path, address)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        raise LaconicError(
            f"--listen {path!r} cannot be made, {error.strerror}; name another path"
        ) from None
    finally:
        os.umask(before)
    listener.listen()
    return listener, path, path


def _listen_tcp(address: str) -> tuple[socket.socket, str, str]:
    port = _port(address, "--listen")
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise LaconicError(
            f"--listen {address!r} cannot be used, {error.strerror}; choose another port, or "
            "tcp:0 for any that is free"
        ) from None
    listener.listen()
    return listener, f"{_TCP}{listener.getsockname()[1]}", ""


def _port(address: str, option: str) -> int:
    host, _, port = address.removeprefix(_TCP).rpartition(":")
    if host not in _LOOPBACK:
        raise LaconicError(
            f"{option} {address!r} is not on this machine; use tcp:PORT, and a tunnel (ssh -L) "
            "from another one"
        )
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise LaconicError(f"{option} {address!r} has no port; write tcp:PORT, as in tcp:7070")
    return int(port)


def _check_length(path: str, address: str) -> None:
    if len(os.fsencode(path)) > _LONGEST:
        raise LaconicError(
            f"the socket {path!r} has a path of more than {_LONGEST} bytes, the most that Linux "
            f"permits; {'name a shorter one' if address else 'name one with --listen PATH'}"
        )


def _directory(option: str) -> str:
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isdir(directory):
        raise LaconicError(
            f"{option} has no default address, because XDG_RUNTIME_DIR names no directory; name a "
            f"path, as in {option} ./live.sock"
        )
    return directory


def _own_path() -> str:
    return os.path.join(_directory("--listen"), f"laconic-{os.getpid()}.sock")


def _remove_stale(path: str) -> None:
    # Remove a socket that a killed process left; any other file is kept.
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise LaconicError(f"--listen {path!r} is a file already; name another path")
    except FileNotFoundError:
        return
    except OSError as error:
        raise LaconicError(
            f"--listen {path!r} cannot be made, {error.strerror}; name another path"
        ) from None
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise LaconicError(
                f"--listen {path!r} cannot be used, {error.strerror}; name another path"
            ) from None
        else:
            raise LaconicError(f"--listen {path!r} is in use by another program; name another path")


def connect(address: str) -> socket.socket:
    """Return a connection to the program that listens at an address; without an address, to the
    only program that listens at a default address. Raises LaconicError."""
    if address.startswith(_TCP):
        port = _port(address, "--connect")
        connection = socket.socket(socket.AF_INET)
        try:
            connection.connect(("127.0.0.1", port))
        except OSError as error:
            connection.close()
            raise _not_there(address, error) from None
        return connection
    if address:
        try:
            return _connect_path(address)
        except OSError as error:
            raise _not_there(address, error) from None
    found = list(_listening())
    if len(found) == 1:
        return found[0]
    names = [connection.getpeername() for connection in found]
    for connection in found:
        connection.close()
    if not names:
        raise LaconicError(
            "no program is listening; start one with  laconic live --listen -- CMD, or name an "
            "address with --connect ADDRESS"
        )
    raise LaconicError(
        f"{len(names):,} programs are listening; choose one with --connect: {', '.join(names)}"
    )


def _connect_path(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _listening() -> Iterator[socket.socket]:
    directory = _directory("--connect")
    for name in sorted(os.listdir(directory)):
        if name.startswith("laconic-") and name.endswith(".sock"):
            try:
                yield _connect_path(os.path.join(directory, name))
            except OSError:
                continue  # left by a process that was killed


def _not_there(address: str, error: OSError) -> LaconicError:
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return LaconicError(
            f"no program listens at {address!r}; start one with  "
            f"laconic live --listen {address} -- CMD"
        )
    why = error.strerror or str(error)
    return LaconicError(f"--connect {address!r} failed, {why}; name another address")


def is_same_user(connection: socket.socket) -> bool:
    """Return whether the process at the other end of an accepted connection runs as this user."""
    if connection.family == socket.AF_UNIX:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(data)[1]) == os.getuid()
    return _owner(connection.getpeername(), connection.getsockname()) == os.getuid()


def _owner(here: tuple[str, int], there: tuple[str, int]) -> int | None:
    # Return the user of the socket at `here`, which is connected to `there`: /proc/net/tcp has both
    # ends of a connection within the machine.
    wanted = [_hexadecimal(here), _hexadecimal(there), _CONNECTED]
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1:4] == wanted:
                return int(words[7])
    return None


def _hexadecimal(place: tuple[str, int]) -> str:
    # Return the address in the form of /proc/net/tcp: a number in this machine's byte order.
    (number,) = struct.unpack("=I", socket.inet_aton(place[0]))
    return f"{number:08X}:{place[1]:04X}"
