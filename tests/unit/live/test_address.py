"""Where a running program can be watched from."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from laconic.errors import LaconicError
from laconic.live.address import connect, is_same_user, listen
from tests.helpers.commandline import laconic
from tests.tracer.lab import PATIENCE

#: A user that owns nothing.
_NOBODY = 65534


def connected_as(user: int, listener: socket.socket, address: str) -> bool:
    """Whether a process of `user` that connects is taken for one of this user."""
    reading, writing = os.pipe()
    listener.settimeout(PATIENCE)
    pid = os.fork()
    if not pid:
        try:
            os.setuid(user)
            connection = connect(address)
            os.close(writing)
            os.read(reading, 1)
            connection.close()
        finally:
            os._exit(0)
    os.close(reading)
    connection, _ = listener.accept()
    same = is_same_user(connection)
    os.close(writing)
    connection.close()
    os.waitpid(pid, 0)
    return same


def test_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is for its user alone, whatever the umask."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        listener, where, path = listen("a.sock")
    finally:
        os.umask(before)
    assert where == path == str(tmp_path / "a.sock")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    connection = connect("a.sock")
    accepted, _ = listener.accept()
    assert is_same_user(accepted)
    for each in (connection, accepted, listener):
        each.close()


def test_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was killed there is passed over; of several, one must be named."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "laconic-1.sock"))
    with pytest.raises(LaconicError, match="no program is listening; start one"):
        connect("")
    listener, where, path = listen("")
    assert where == str(tmp_path / f"laconic-{os.getpid()}.sock")
    connect("").close()
    with pytest.raises(LaconicError, match="in use by another program; name another path"):
        listen("")
    other, _, _ = listen(str(tmp_path / "laconic-2.sock"))
    with pytest.raises(LaconicError, match=r"2 programs are listening; choose one .*-2\.sock"):
        connect("")
    other.close()
    listener.close()
    again, where, _ = listen("")  # what was left is replaced
    assert where == path
    again.close()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(LaconicError, match="XDG_RUNTIME_DIR names no directory; name a path"):
        listen("")


def test_loopback() -> None:
    """A port of this machine, and of no other."""
    listener, where, path = listen("tcp:0")
    assert path == "" and listener.getsockname()[0] == "127.0.0.1"
    assert connected_as(os.getuid(), listener, where)
    with pytest.raises(LaconicError, match="cannot be used, Address already in use; choose"):
        listen(where)
    listener.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_other_users_get_no_answer() -> None:
    listener, where, _ = listen("tcp:0")
    assert not connected_as(_NOBODY, listener, where)
    listener.close()
    with TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        listener, where, _ = listen(f"{directory}/a.sock")
        os.chmod(where, 0o777)
        assert not connected_as(_NOBODY, listener, where)
        listener.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--listen", "tcp:x", "--", "true"), "has no port; write tcp:PORT"),
        (("run", "--listen", "tcp:example.org:7", "--", "true"), "is not on this machine"),
        (("run", "--listen", "missing/x", "--", "true"), "No such file or directory; name another"),
        (("run", "--listen", "a.file", "--", "true"), "is a file already; name another path"),
        (("run", "--listen", "x" * 120, "--", "true"), "more than 107 bytes"),
        (
            ("run", "-o", "t", "--stacks", "none", "--listen", "s", "--", "true"),
            "--stacks none takes fewer; leave out one of them",
        ),
        (
            ("run", "-o", "t", "--redact", "--listen", "s", "--", "true"),
            "--redact hides; leave out one of them",
        ),
        (("live", "--connect", "missing"), "no program listens at 'missing'; start one with"),
        (("live", "--connect", "a.file"), "no program listens at 'a.file'"),
        (("live", "--connect", "x", "--", "true"), "leave out a program, or --connect"),
        (("live", "--connect", "x", "-o", "t"), "leave out -o, or --connect"),
    ],
)
def test_errors(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """Each says what is wrong, and what to do; nothing runs, and no file is made."""
    (tmp_path / "a.file").touch()
    done = laconic(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.file"]
