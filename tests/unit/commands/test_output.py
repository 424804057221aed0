"""Files that are written at the end: complete or as they were, and never left behind half done."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from laconic.commands.output import Output, open_output, write_json
from laconic.errors import LaconicError

#: Runs as `nobody`: root is permitted everything.
AS_NOBODY = f"""
import os, sys
import json
sys.path[:0] = {sys.path!r}
from laconic.commands.output import open_output, write_json
from laconic.errors import LaconicError
os.umask(0o022)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    write_json({{}}, open_output(sys.argv[1]), sys.argv[1])
except LaconicError as error:
    print(error)
"""


@pytest.fixture(params=["unnamed", "named"], autouse=True)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test on a file system that has files without a name, and on one that has none."""
    real_open = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return real_open(path, flags, mode)

    if request.param == "named":
        monkeypatch.setattr(os, "open", refuse)


def write(path: Path | str) -> None:
    """Writes an empty object."""
    output = open_output(str(path))
    assert output is not None
    write_json({}, output, str(path))


def test_a_new_file_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    before = os.umask(0o027)
    try:
        output = open_output(str(path))
    finally:
        os.umask(before)
    assert output is not None
    assert not path.exists()
    with output as file:
        file.write("half")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "half"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_result_that_never_came_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    output = Output(str(path))
    with pytest.raises(ZeroDivisionError), output as file:
        file.write(str(1 / 0))
    del output
    unwritten = Output(str(path))
    del unwritten
    assert os.listdir(tmp_path) == []


def test_a_file_that_exists_keeps_its_contents_until_then_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before, and longer than after")
    path.chmod(0o604)
    reader = path.open()
    output = Output(str(path))
    with output as file:
        file.write("after")
        file.flush()
        assert path.read_text() == "before, and longer than after"
    assert path.read_text() == "after"
    assert reader.read() == "before, and longer than after", "it was not renamed"
    reader.close()
    assert path.stat().st_mode & 0o7777 == 0o604
    assert os.listdir(tmp_path) == ["a.json"]


def test_links_stay_links(tmp_path: Path) -> None:
    target, link, other = tmp_path / "target", tmp_path / "link", tmp_path / "other"
    link.symlink_to("target")
    write(link)
    assert link.is_symlink() and target.read_text() == "{}\n"
    target.write_text("before, and longer than after")
    os.link(target, other)
    write(link)
    assert link.is_symlink() and target.samefile(other) and other.read_text() == "{}\n"


def test_a_fifo_and_a_device_are_written_in_place(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write(fifo)
    reader.join()
    assert read == ["{}\n"]
    write("/dev/null")
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_that_is_a_file_is_continued(name: str, tmp_path: Path) -> None:
    script = f"import sys; sys.path[:0] = {sys.path!r}\n"
    script += "from laconic.commands.output import open_output, write_json\n"
    script += f"output = open_output({name!r})\nprint('the program', flush=True)\n"
    script += f"write_json({{}}, output, {name!r})\nprint('the end')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "the program\n{}\nthe end\n"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing/a.json", "No such file or directory"),
        ("new/", "Is a directory"),
        (".", "Is a directory"),
        ("x" * 256, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("", "No such file or directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error_at_once(
    name: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(LaconicError, match=why):
        open_output(path)
    assert os.listdir(tmp_path) == ["loop"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_permissions_are_those_of_an_ordinary_open(tmp_path: Path) -> None:
    for place in [tmp_path, *tmp_path.parents][:-2]:
        place.chmod(place.stat().st_mode | 0o005)
    closed, writable, theirs = tmp_path / "closed", tmp_path / "writable", tmp_path / "theirs"
    for path, mode in ((closed, 0o644), (writable, 0o666)):
        path.write_text("before, and longer than after")
        path.chmod(mode)
    theirs.mkdir()
    theirs.chmod(0o777)

    def by_nobody(path: Path) -> str:
        words = [sys.executable, "-c", AS_NOBODY, str(path)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert "Permission denied" in by_nobody(closed)
    assert "Permission denied" in by_nobody(tmp_path / "new")
    assert by_nobody(writable) == by_nobody(theirs / "new") == ""
    assert closed.read_text() == "before, and longer than after"
    assert (writable.read_text(), writable.stat().st_uid) == ("{}\n", 0)
    assert (theirs / "new").stat().st_uid == 65534
    assert (theirs / "new").stat().st_mode & 0o7777 == 0o644
    assert sorted(os.listdir(tmp_path)) == ["closed", "theirs", "writable"]


def on_terminal(columns: int, env: dict[str, str]) -> str:
    """What a report and a message look like on a terminal of that width."""
    terminal, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    script = (
        "from laconic.commands.output import tell, width\n"
        "from laconic.commands.traces import show\n"
        "show('FAILED baseline: 1\\nok: no word\\nred\\x1b[31m')\n"
        "tell(f'laconic: {width(1)} {width(2)}\\n')\n"
    )
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
        stdout=end,
        stderr=end,
        check=True,
        env={**os.environ, **env},
    )
    os.close(end)
    text = os.read(terminal, 10_000).decode().replace("\r", "")
    os.close(terminal)
    return text


def test_colors_and_width_of_a_terminal() -> None:
    """The first word of a line is colored; control characters of names are not passed on."""
    clean = {"TERM": "xterm", "NO_COLOR": ""}
    text = on_terminal(120, clean)
    assert text.startswith("\x1b[1;31mFAILED\x1b[0m baseline: 1\nok: no word\n")
    assert text.count("\x1b") == 4 and "\x1b[1mlaconic:\x1b[0m 120 120\n" in text
    for env in ({**clean, "NO_COLOR": "1"}, {**clean, "TERM": "dumb"}):
        assert "\x1b" not in on_terminal(40, env)
    assert "60 60" in on_terminal(40, clean) and "140 140" in on_terminal(300, clean)
