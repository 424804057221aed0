"""The cache of symbols: what a second report does not read again, and what it never believes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconic.stacks import lines, symbolize
from laconic.stacks.cache import SymbolCache, cache_folder
from laconic.stacks.symbolize import Place, Symbolizer
from laconic.stacks.symbols import open_elf, read_symbols
from laconic.stacks.table import FILE, Frame, Module
from tests.tracer.lab import environment, tool

SOURCE = """\
static inline __attribute__((always_inline)) int add(int x) { return x * 3; }
int grow(int x) { return add(x) + 1; }
int shrink(int x) { return x - 1; }
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library with DWARF and a build-id."""
    place = tmp_path_factory.mktemp("library")
    (place / "grow.c").write_text(SOURCE)
    words = [tool("gcc"), "-g", "-O1", "-shared", "-fPIC", "-Wl,--build-id"]
    subprocess.run([*words, "-o", "libgrow.so", "grow.c"], cwd=place, check=True)
    return place / "libgrow.so"


@pytest.fixture
def library(built: Path, tmp_path: Path) -> Path:
    """A copy of the library for one test."""
    return Path(shutil.copy2(built, tmp_path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache of one test is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/laconic/symbols"


def look_up(path: Path, function: str = "grow", directories: tuple[str, ...] = ()) -> list[Place]:
    """What a report shows for a function of a library."""
    elf = open_elf(str(path))
    about = path.stat()
    module = Module(FILE, str(path), elf.build_id, about.st_size, about.st_mtime_ns)
    starts = {name: start for start, _, _, name in read_symbols(open_elf(str(path)))}
    frame = Frame(1, starts.get(function, 0x1000), True, False)
    return list(Symbolizer(directories).places(module, frame))


def kinds(folder: Path) -> list[str]:
    """The kinds of the files in a cache; they are closed to other users."""
    files = list(folder.iterdir()) if folder.exists() else []
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    return sorted(file.suffix for file in files)


class Unread:
    """Stands for what must not be read."""

    def __init__(self, *_: object) -> None:
        raise AssertionError("read again")


class TestASecondReport:
    """Reads nothing of a module whose addresses were looked up before."""

    def test_names(self, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = look_up(library)
        assert [place.function for place in first] == ["grow"] and first[0].line == 2
        assert kinds(folder) == [".names", ".symcache"] and folder.stat().st_mode & 0o777 == 0o700
        monkeypatch.setattr(symbolize, "Lines", Unread)
        monkeypatch.setattr(symbolize, "read_symbols", Unread)
        assert look_up(library) == first
        with pytest.raises(AssertionError, match="read again"):
            look_up(library, "shrink")

    def test_symcache(self, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another address needs the symcache, and not the DWARF."""
        look_up(library)
        monkeypatch.setattr(lines._symbolic().Archive, "open", Unread)
        (place,) = look_up(library, "shrink")
        assert (place.function, place.line) == ("shrink", 3)
        assert kinds(folder) == [".names", ".symcache"]

    @pytest.mark.parametrize("backtrace", ["", "full"])
    def test_in_a_process(self, library: Path, folder: Path, backtrace: str) -> None:
        """The first report imports symbolic, which sets RUST_BACKTRACE: programs that Laconic runs
        must not inherit that. The second report saves the time of the import."""
        code = (
            "import os, sys; from tests.unit.stacks.test_cache import look_up, Path\n"
            "look_up(Path(sys.argv[1]))\n"
            "print('symbolic' in sys.modules, os.environ.get('RUST_BACKTRACE', ''))"
        )
        variables = environment(RUST_BACKTRACE=backtrace)
        if not backtrace:
            del variables["RUST_BACKTRACE"]
        for imported in (True, False):
            done = subprocess.run(
                [sys.executable, "-c", code, str(library)],
                capture_output=True,
                text=True,
                check=True,
                env=variables,
                cwd=Path(__file__).parents[3],
            )
            assert done.stdout == f"{imported} {backtrace}\n"


class TestOtherFiles:
    """Names belong to the bytes that they were read from."""

    def test_a_stripped_copy(self, library: Path, folder: Path) -> None:
        """It has the same build-id."""
        shown = look_up(library)[0]
        subprocess.run([tool("strip"), "--strip-debug", str(library)], check=True)
        assert look_up(library) == [shown._replace(file="", line=0)]

    @pytest.mark.parametrize("identity", ["build-id", "contents"])
    def test_a_rewritten_file(self, library: Path, folder: Path, identity: str) -> None:
        """Of the same size and name."""
        if identity == "contents":
            command = [tool("objcopy"), "--remove-section=.note.gnu.build-id", str(library)]
            subprocess.run(command, check=True)
            assert not open_elf(str(library)).build_id
        about = library.stat()
        assert look_up(library)[0].function == "grow"
        data = library.read_bytes()
        assert data.count(b"\0grow\0") >= 1
        library.write_bytes(data.replace(b"\0grow\0", b"\0crow\0"))
        if identity == "contents":
            os.utime(library, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert look_up(library, "crow")[0].function == "crow"

    def test_a_debug_file_that_comes_later(self, library: Path, folder: Path) -> None:
        store = library.parent / "store"
        identity = open_elf(str(library)).build_id
        debug = store / ".build-id" / identity[:2] / f"{identity[2:]}.debug"
        debug.parent.mkdir(parents=True)
        subprocess.run([tool("objcopy"), "--only-keep-debug", str(library), str(debug)], check=True)
        hidden = debug.rename(library.parent / "hidden")
        subprocess.run([tool("strip"), str(library)], check=True)
        assert look_up(library, "grow", (str(store),))[0].line == 0
        hidden.rename(debug)
        assert look_up(library, "grow", (str(store),))[0].line == 2

    def test_a_loss_is_reported_each_time(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "grow.c").write_text(SOURCE)
        words = [tool("gcc"), "-g", "-gsplit-dwarf", "-O1", "-shared", "-fPIC", "grow.c"]
        subprocess.run([*words, "-o", "split.so"], cwd=tmp_path, check=True)
        path = tmp_path / "split.so"
        module = Module(FILE, str(path), open_elf(str(path)).build_id)
        starts = {name: start for start, _, _, name in read_symbols(open_elf(str(path)))}
        for _ in range(2):
            symbolizer = Symbolizer(())
            (place,) = symbolizer.places(module, Frame(1, starts["grow"], True, False))
            assert (place.function, place.line) == ("grow", 2)
            assert symbolizer.partial[module][0] == "inlined functions"
            del symbolizer
            assert ".names" not in kinds(folder)


class TestDamage:
    """A damaged file is removed, and written again."""

    @pytest.mark.parametrize("kind", ["names", "symcache"])
    def test_bytes(self, library: Path, folder: Path, kind: str) -> None:
        whole = look_up(library)
        (file,) = folder.glob(f"*.{kind}")
        data = file.read_bytes()
        for at in (0, 8, 39, 40, len(data) // 2, len(data) - 1):
            for spoilt in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
                file.write_bytes(spoilt)
                for other in folder.glob("*.names"):
                    if kind == "symcache":
                        other.unlink()
                assert look_up(library) == whole
                assert file.read_bytes() == data

    def test_another_module_s_file(self, library: Path, folder: Path) -> None:
        cache = SymbolCache()
        cache.write("a", "names", b"{}")
        (folder / "a.names").rename(folder / "b.names")
        assert cache.read("b", "names") is None and not (folder / "b.names").exists()

    def test_only_regular_files_are_read(self, folder: Path, tmp_path: Path) -> None:
        """Links, pipes and folders are not read, and keep nobody waiting."""
        cache = SymbolCache()
        cache.write("a", "names", b"{}")
        (folder / "link.names").symlink_to(folder / "a.names")
        (folder / "folder.names").mkdir()
        os.mkfifo(folder / "pipe.names")
        assert cache.read("a", "names") == b"{}"
        assert [cache.read(key, "names") for key in ("link", "folder", "pipe", "none")] == [
            None
        ] * 4


class TestOtherUsers:
    """A folder that others can write, or that is another user's, is not used."""

    @pytest.fixture
    def cache(self, folder: Path) -> Iterator[SymbolCache]:
        cache = SymbolCache()
        cache.write("a", "names", b"{}")
        assert cache.read("a", "names") == b"{}"
        yield cache
        assert cache.read("a", "names") is None
        cache.write("b", "names", b"{}")
        assert not (folder / "b.names").exists()

    def test_mode(self, cache: SymbolCache, folder: Path) -> None:
        folder.chmod(0o755)

    def test_link(self, cache: SymbolCache, folder: Path) -> None:
        folder.rename(folder.parent / "else")
        folder.symlink_to(folder.parent / "else")

    def test_owner(self, cache: SymbolCache, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    def test_root_in_a_user_s_home(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with sudo: no folder of root's comes to be there."""
        folder.parents[1].mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        SymbolCache().write("a", "names", b"{}")
        assert not list(folder.parents[1].iterdir())


class TestNoCache:
    """Reports are the same without one."""

    @pytest.mark.parametrize("home", ["/dev/null", "/proc", "relative"])
    def test_a_home_that_cannot_be_written(
        self, library: Path, home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("XDG_CACHE_HOME", "" if home == "/dev/null" else home)
        assert look_up(library)[0].line == 2
        assert not (tmp_path / "relative").exists()

    def test_no_home(self, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        assert cache_folder() is None and look_up(library)[0].line == 2

    def test_a_full_disk(
        self, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", full)
        assert look_up(library)[0].line == 2 and kinds(folder) == []


def test_bounded(tmp_path: Path) -> None:
    """The files that were not used for the longest time go; what is too large is not kept."""
    folder = tmp_path / "cache"
    cache = SymbolCache(str(folder), 1000)
    for number in range(4):
        cache.write(f"k{number}", "names", b"x" * 200)
        os.utime(folder / f"k{number}.names", (number, number))
    assert cache.read("k0", "names") is not None
    cache.write("k4", "names", b"x" * 200)
    assert {file.stem for file in folder.iterdir()} == {"k0", "k2", "k3", "k4"}
    cache.write("large", "names", b"x" * 251)
    assert not (folder / "large.names").exists()


def test_at_the_same_time(folder: Path) -> None:
    """Writers of one file: a reader sees a whole one of theirs, or none."""
    code = (
        "import sys; from laconic.stacks.cache import SymbolCache\n"
        "for turn in range(300): SymbolCache().write('a', 'names', sys.argv[1].encode() * 5000)"
    )
    words = [sys.executable, "-c", code]
    writers = [subprocess.Popen([*words, letter], env=environment()) for letter in "xyz"]
    cache, seen = SymbolCache(), set()
    while any(writer.poll() is None for writer in writers):
        data = cache.read("a", "names")
        if data is not None:
            assert len(data) == 5000 and len(set(data)) == 1
            seen.add(data)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen and [file.name for file in folder.iterdir()] == ["a.names"]
