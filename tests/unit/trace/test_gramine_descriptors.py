"""What the calls of a Gramine log show of files: how descriptors are open, and how large files
are."""

from __future__ import annotations

import pytest

from laconic.trace.importers.gramine.descriptors import Descriptors, FileCalls, FileWrite
from laconic.trace.schema import READABLE, WRITABLE


@pytest.mark.parametrize(
    ("name", "arguments", "access"),
    [
        (b"openat", b'AT_FDCWD, "a", O_RDONLY|0x80000, 0000', READABLE),
        (b"openat", b'AT_FDCWD, "a", O_WRONLY|O_CREAT, 0600', WRITABLE),
        (b"open", b'"a", O_RDWR, 0000', READABLE | WRITABLE),
        (b"creat", b'"a", 0600', WRITABLE),
        (b"open", b'"a", 0x123', READABLE | WRITABLE),
    ],
)
def test_access_is_that_of_the_open(name: bytes, arguments: bytes, access: int) -> None:
    descriptors = Descriptors()
    FileCalls().call(descriptors, name, arguments, 3)
    assert descriptors[3].access == access


def test_size_of_a_file_that_the_program_makes() -> None:
    """Duplicated and inherited descriptors share the position."""
    files, descriptors = FileCalls(), Descriptors()
    opened = files.call(descriptors, b"open", b'"a", O_RDWR|O_CREAT|O_TRUNC, 0600', 3)
    assert opened == FileWrite(b"a", 0, True)
    assert files.call(descriptors, b"write", b"3, 0x1000, 0x64", 100) == FileWrite(b"a", 100, False)
    files.call(descriptors, b"dup2", b"3, 7", 7)
    child = descriptors.copy()
    assert files.call(child, b"write", b"7, 0x1000, 0x32", 50) == FileWrite(b"a", 150, False)
    files.call(descriptors, b"lseek", b"3, 0x0, SEEK_SET", 0)
    files.call(descriptors, b"read", b"3, 0x1000, 0xa", 10)
    assert files.call(descriptors, b"write", b"3, 0x1000, 0xa", 10) == FileWrite(b"a", 20, False)
    assert files.sizes[b"a"] == 150
    pwrite = files.call(descriptors, b"pwrite64", b"3, 0x1000, 0x1, 0x1000", 1)
    assert pwrite == FileWrite(b"a", 4097, False)
    assert files.sizes[b"a"] == 4097
    assert files.call(descriptors, b"ftruncate", b"3, 0x10", 0) == FileWrite(b"a", 16, True)
    assert files.sizes[b"a"] == 16
    assert files.call(descriptors, b"truncate", b'"a", 0x20', 0) == FileWrite(b"a", 32, True)
    assert files.sizes[b"a"] == 32


def test_sendfile_writes_at_the_position_of_its_target() -> None:
    """Without an offset, it reads at the position of its source, and moves it. `1` is a terminal
    that the log does not show to be opened."""
    files, descriptors = FileCalls(), Descriptors()
    files.call(descriptors, b"open", b'"from", O_RDWR, 0000', 3)
    files.call(descriptors, b"open", b'"to", O_WRONLY|O_TRUNC, 0600', 4)
    assert files.call(descriptors, b"sendfile", b"4, 3, 0, 0x100", 96) == FileWrite(
        b"to", 96, False
    )
    offset = files.call(descriptors, b"sendfile", b"4, 3, 0x7ffc10, 0x100", 8)
    assert offset == FileWrite(b"to", 104, False)
    assert files.call(descriptors, b"write", b"3, 0x1000, 0x4", 4) == FileWrite(b"from", 100, False)
    assert files.call(descriptors, b"sendfile", b"4, 3, 0, 0x100", 0) is None
    assert files.call(descriptors, b"sendfile", b"1, 3, 0, 0x100", 96) is None
    assert files.sizes == {b"to": 104}


def test_only_an_open_for_writing_truncates() -> None:
    files, descriptors = FileCalls(), Descriptors()
    assert files.call(descriptors, b"open", b'"a", O_RDONLY|O_TRUNC, 0000', 3) is None
    assert files.call(descriptors, b"creat", b'"a", 0600', 3) == FileWrite(b"a", 0, True)


def test_a_file_that_appends_is_written_at_its_end() -> None:
    files, descriptors = FileCalls(), Descriptors()
    files.call(descriptors, b"open", b'"a", O_WRONLY|O_TRUNC|O_APPEND, 0600', 3)
    files.call(descriptors, b"write", b"3, 0x1000, 0x8", 8)
    files.call(descriptors, b"lseek", b"3, 0x0, SEEK_SET", 0)
    assert files.call(descriptors, b"write", b"3, 0x1000, 0x8", 8) == FileWrite(b"a", 16, False)


def test_size_of_a_file_from_before_the_log_stays_unknown() -> None:
    files, descriptors = FileCalls(), Descriptors()
    files.call(descriptors, b"open", b'"a", O_RDWR|O_APPEND, 0000', 3)
    assert files.call(descriptors, b"write", b"3, 0x1000, 0x8", 8) == FileWrite(b"a", 0, False)
    assert files.sizes == {}


def test_descriptors_that_are_closed_or_unknown_write_nothing() -> None:
    files, descriptors = FileCalls(), Descriptors()
    files.call(descriptors, b"open", b'"a", O_RDWR, 0000', 3)
    files.call(descriptors, b"close", b"3", 0)
    assert files.call(descriptors, b"write", b"3, 0x1000, 0x8", 8) is None
    assert files.call(descriptors, b"ftruncate", b"9, 0x8", 0) is None
    with pytest.raises(ValueError, match="x"):
        files.call(descriptors, b"write", b"x, 0x1000, 0x8", 8)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (b"truncate", b'"a"'),
        (b"ftruncate", b"3"),
        (b"pwrite64", b"3, 0x1000, 0x8"),
        (b"sendfile", b"3, 4"),
    ],
)
def test_missing_arguments_are_an_error(name: bytes, arguments: bytes) -> None:
    files, descriptors = FileCalls(), Descriptors()
    files.call(descriptors, b"open", b'"a", O_RDWR, 0000', 3)
    files.call(descriptors, b"dup", b"3", 4)
    with pytest.raises(ValueError, match="invalid literal"):
        files.call(descriptors, name, arguments, 8)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (b"truncate", b'"a", -5'),
        (b"ftruncate", b"3, 0x8000000000000000"),
        (b"pwrite64", b"3, 0x1000, 0x8, 0x7fffffffffffffff"),
    ],
)
def test_impossible_sizes_are_an_error(name: bytes, arguments: bytes) -> None:
    files, descriptors = FileCalls(), Descriptors()
    files.call(descriptors, b"open", b'"a", O_RDWR|O_TRUNC, 0000', 3)
    with pytest.raises(ValueError, match="a file of"):
        files.call(descriptors, name, arguments, 8)
    assert files.sizes == {b"a": 0}
