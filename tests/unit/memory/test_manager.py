"""The public API: one address space's memory calls as methods, on a PAL of the caller's choice."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pickle
import re
import types
from collections.abc import Callable
from errno import EACCES, EFAULT, EINVAL, ENOMEM, ENOSYS, EPERM
from pathlib import Path

import pytest

import laconic
from laconic import (
    PAGE_SIZE,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    AddressSpace,
    Change,
    ChangeKind,
    File,
    HostError,
    Layout,
    MemoryManager,
    OpenFile,
    Outcome,
    Vma,
)
from laconic.memory import flags as f
from laconic.memory.calls import OPERATIONS
from laconic.memory.html import MOST_ROWS
from laconic.memory.pal import refusal_errno

ROOT = Path(__file__).parents[3]
RW = PROT_READ | PROT_WRITE


class Recorder:
    """A PAL that keeps the changes, and refuses when told to."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.refusals: dict[int, BaseException] = {}

    def apply(self, change: Change) -> None:
        """Keep the change, or raise the refusal planned for its number."""
        number = len(self.changes)
        self.changes.append(change)
        if number in self.refusals:
            raise self.refusals[number]

    def kinds(self) -> list[ChangeKind]:
        """The kinds since the last look."""
        kinds = [change.kinds for change in self.changes]
        self.changes.clear()
        return kinds


@pytest.fixture
def pal() -> Recorder:
    return Recorder()


@pytest.fixture
def mm(pal: Recorder) -> MemoryManager:
    return MemoryManager(pal)


def attributes(mm: MemoryManager) -> list[tuple[int, int, str]]:
    """The VMAs as (start, end, permissions)."""
    return [(start, end, vma.permissions()) for start, end, vma in mm.space.vmas]


def test_a_call_that_changes_nothing_does_not_reach_the_pal(
    mm: MemoryManager, pal: Recorder
) -> None:
    address = mm.mmap(None, 4 * PAGE_SIZE, RW)
    assert pal.kinds() == [ChangeKind.MAP]
    mm.mprotect(address, 4 * PAGE_SIZE, RW)
    assert pal.kinds() == []
    mm.mprotect(address, PAGE_SIZE, PROT_READ)
    assert pal.kinds() == [ChangeKind.RESTRICT]
    mm.mprotect(address, 4 * PAGE_SIZE, PROT_NONE)
    assert pal.kinds() == [ChangeKind.RESTRICT, ChangeKind.RESTRICT]
    mm.munmap(address, 4 * PAGE_SIZE)
    mm.munmap(address, 4 * PAGE_SIZE)
    assert pal.kinds() == [ChangeKind.UNMAP]


def test_errors_are_linux_s(mm: MemoryManager) -> None:
    with pytest.raises(OSError, match="Invalid") as error:
        mm.munmap(1, PAGE_SIZE)
    assert error.value.errno == EINVAL
    address = mm.mmap(None, 2 * PAGE_SIZE, PROT_READ)
    mm.munmap(address + PAGE_SIZE, PAGE_SIZE)
    with pytest.raises(OSError, match="memory") as error:
        mm.mprotect(address, 2 * PAGE_SIZE, RW)
    assert error.value.errno == ENOMEM
    assert attributes(mm) == [(address, address + PAGE_SIZE, "rw-p")], (
        "as on Linux, pages before the hole change"
    )
    with pytest.raises(OSError, match="address") as error:
        mm.mremap(address + PAGE_SIZE, PAGE_SIZE, 2 * PAGE_SIZE)
    assert error.value.errno == EFAULT


def test_a_refusal_leaves_what_was_held(mm: MemoryManager, pal: Recorder) -> None:
    pal.refusals = {0: HostError(ENOMEM)}
    with pytest.raises(OSError, match="memory"):
        mm.mmap(None, PAGE_SIZE, RW)
    assert attributes(mm) == []
    mm.space.check()


def test_a_refusal_halfway_keeps_what_was_carried_out(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, 8 * PAGE_SIZE, RW)
    mm.mprotect(address + 2 * PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ)
    pal.changes.clear()
    # The second of two changes stops after one of its four pages.
    pal.refusals = {1: HostError(EACCES, end=address + 5 * PAGE_SIZE)}
    with pytest.raises(OSError, match="denied") as error:
        mm.mprotect(address, 8 * PAGE_SIZE, PROT_READ)
    assert error.value.errno == EACCES
    assert attributes(mm) == [
        (address, address + 5 * PAGE_SIZE, "r--p"),
        (address + 5 * PAGE_SIZE, address + 8 * PAGE_SIZE, "rw-p"),
    ]
    mm.space.check()


@pytest.mark.parametrize(
    "failure", [OSError(ENOMEM, "no memory"), KeyError("page"), KeyboardInterrupt(), OSError("?")]
)
def test_a_change_during_which_the_pal_fails_is_not_lost(
    mm: MemoryManager, pal: Recorder, failure: BaseException
) -> None:
    """The caller receives the exception, and the same call reaches the PAL again."""
    address = mm.mmap(None, 2 * PAGE_SIZE, PROT_READ)
    pal.changes.clear()
    pal.refusals = {0: failure}
    with pytest.raises(type(failure)) as error:
        mm.mprotect(address, PAGE_SIZE, RW)
    assert getattr(error.value, "errno", None) == getattr(failure, "errno", None)
    assert attributes(mm) == [(address, address + 2 * PAGE_SIZE, "r--p")]
    mm.space.check()
    mm.mprotect(address, PAGE_SIZE, RW)
    assert len(pal.changes) == 2 and pal.changes[0] == pal.changes[1]
    assert attributes(mm)[0] == (address, address + PAGE_SIZE, "rw-p")


def test_eperm_is_a_refusal_and_an_error_without_errno_is_none() -> None:
    assert HostError(EPERM).errno == EPERM
    assert refusal_errno(OSError(EPERM, "")) == EPERM
    assert refusal_errno(OSError("no errno")) == 0
    assert refusal_errno(ValueError()) == 0


def test_a_host_error_checks_its_values() -> None:
    for errno in (-ENOMEM, 0):
        with pytest.raises(ValueError, match=f"errno {errno} is not positive"):
            HostError(errno)
    with pytest.raises(ValueError, match="end 0x64 is not page aligned"):
        HostError(ENOMEM, end=100)
    copied = pickle.loads(pickle.dumps(HostError(ENOMEM, end=PAGE_SIZE)))
    assert (copied.errno, copied.end, str(copied)) == (ENOMEM, PAGE_SIZE, str(HostError(ENOMEM)))


@pytest.mark.parametrize("page", [-1, 3])
def test_the_end_of_a_host_error_is_in_its_change(
    mm: MemoryManager, pal: Recorder, page: int
) -> None:
    address = mm.mmap(None, 4 * PAGE_SIZE, PROT_READ)
    pal.changes.clear()
    pal.refusals = {0: HostError(ENOMEM, end=address + page * PAGE_SIZE)}
    with pytest.raises(ValueError, match=r"is outside of EXTEND \w+-\w+ rw-p, was r--p"):
        mm.mprotect(address, 2 * PAGE_SIZE, RW)
    assert attributes(mm) == [(address, address + 4 * PAGE_SIZE, "r--p")]
    mm.space.check()


def test_the_break(mm: MemoryManager, pal: Recorder) -> None:
    start = mm.brk()
    assert mm.brk(start + 3 * PAGE_SIZE) == start + 3 * PAGE_SIZE
    pal.changes.clear()
    pal.refusals = {0: HostError(ENOMEM)}
    assert mm.brk(start + 9 * PAGE_SIZE) == start + 3 * PAGE_SIZE, (
        "brk has no errno: it returns the break"
    )
    mm.space.check()


def test_a_file_mapping(mm: MemoryManager, pal: Recorder) -> None:
    library = OpenFile(File(8, 1, 77, "/lib/libc.so"), readable=True, writable=False, size=1 << 20)
    address = mm.mmap(None, 4 * PAGE_SIZE, PROT_READ, f.MAP_PRIVATE, library, PAGE_SIZE)
    info = mm.get_vma_info(address + PAGE_SIZE)
    assert info is not None and (info.start, info.end) == (address, address + 4 * PAGE_SIZE)
    assert info.vma.file == library.file and address - info.vma.base == PAGE_SIZE
    with pytest.raises(OSError, match="denied"):
        mm.mmap(None, PAGE_SIZE, RW, f.MAP_SHARED, library)
    assert mm.get_vma_info(0) is None


def test_only_the_host_chooses_some_places_and_the_library_chooses_them_too(
    mm: MemoryManager,
) -> None:
    big = OpenFile(File(8, 1, 77, "/data"), readable=True, writable=True, places=True, size=8 << 20)
    address = mm.mmap(None, 4 << 20, RW, f.MAP_SHARED, big)
    moved = mm.mremap(address, 4 << 20, 8 << 20)
    assert [(start, end) for start, end, _ in mm.space.vmas] == [(moved, moved + (8 << 20))]
    mm.space.check()


def test_fork_copies_the_space_and_drops_locks(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, 4 * PAGE_SIZE, RW)
    mm.mlock(address, 2 * PAGE_SIZE)
    mm.madvise(address + 3 * PAGE_SIZE, PAGE_SIZE, f.MADV_DONTFORK)
    child = mm.fork(Recorder())
    assert [(start, end) for start, end, _ in child.space.vmas] == [
        (address, address + 3 * PAGE_SIZE)
    ]
    pal.changes.clear()
    child.munmap(address, PAGE_SIZE)
    assert not pal.changes and len(attributes(mm)) == 3, "the parent and its PAL are not affected"


def test_reprs_are_for_engineers(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, PAGE_SIZE, RW)
    assert repr(pal.changes[0]) == f"<Change MAP {address:x}-{address + PAGE_SIZE:x} rw-p>"
    assert repr(mm.space.vmas.get(address)) == "<Vma rw-p>"
    assert repr(mm.space) == "<AddressSpace of 1 VMA, break at 555555560000>"
    span = f"{address:x}-{address + PAGE_SIZE:x}"
    assert repr(mm.space.vmas) == f"<RangeMap of 1: {span} <Vma rw-p>>"
    outcome = Outcome(0, tuple(pal.changes), ask=True)
    assert repr(outcome) == f"<Outcome result=0; ask; MAP {span} rw-p>"


def test_an_address_space_is_a_table_in_a_notebook(mm: MemoryManager) -> None:
    libc = OpenFile(File(8, 1, 7, "/lib/<libc>.so"), True, False, size=1 << 20)
    mm.mmap(None, PAGE_SIZE, PROT_READ, f.MAP_PRIVATE, libc, PAGE_SIZE)
    page = mm.space._repr_html_()
    assert page.count("<tr>") == 2 and "<td>r--p</td>" in page and "<td>1000</td>" in page
    assert "<td>/lib/&lt;libc&gt;.so</td>" in page


def test_a_long_table_is_cut_in_a_notebook(mm: MemoryManager) -> None:
    start = mm.mmap(None, 2 * MOST_ROWS * PAGE_SIZE, PROT_READ)
    for number in range(MOST_ROWS):
        mm.munmap(start + 2 * number * PAGE_SIZE, PAGE_SIZE)
    mm.mmap(start - 2 * PAGE_SIZE, PAGE_SIZE, PROT_READ)
    page = mm.space._repr_html_()
    assert page.count("<tr>") == MOST_ROWS + 1
    assert f"the first {MOST_ROWS:,} of {MOST_ROWS + 1:,} rows" in page


CONSTANTS = ("PAGE_SIZE", "PROT_EXEC", "PROT_NONE", "PROT_READ", "PROT_WRITE", "__version__")
CLASSES_AND_FUNCTIONS = sorted(set(laconic.__all__) - set(CONSTANTS))


def parts(name: str) -> list[tuple[str, object]]:
    """A public class or function, with the class's own public methods and properties."""
    thing = getattr(laconic, name)
    if not inspect.isclass(thing):
        return [(name, thing)]
    own = [
        (f"{name}.{member}", value)
        for member, value in vars(thing).items()
        if not member.startswith("_")
        and isinstance(value, types.FunctionType | property | classmethod | staticmethod)
    ]
    return [(name, thing), *own]


def test_the_list_of_public_names_is_complete() -> None:
    assert sorted(laconic.__all__) == sorted([*laconic._PUBLIC, "__version__"])
    assert dir(laconic) == sorted(laconic.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(laconic, "Nothing")  # noqa: B009


@pytest.mark.pure
@pytest.mark.parametrize("name", CLASSES_AND_FUNCTIONS)
def test_a_public_name_is_documented_and_typed(name: str) -> None:
    for label, thing in parts(name):
        own = thing if inspect.isclass(thing) else inspect.unwrap(_function(thing))
        assert (own.__doc__ or "").strip(), f"{label} has no docstring"
        if inspect.isclass(thing):
            continue
        signature = inspect.signature(own)
        assert signature.return_annotation is not signature.empty, f"{label} has no return type"
        for parameter in signature.parameters.values():
            if parameter.name not in ("self", "cls"):
                typed = parameter.annotation is not parameter.empty
                assert typed, f"{label}: {parameter.name} has no type"


def _function(thing: object) -> Callable[..., object]:
    if isinstance(thing, property):
        assert thing.fget is not None
        return thing.fget
    if isinstance(thing, classmethod | staticmethod):
        return thing.__func__
    assert callable(thing)
    return thing


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_public_constant_has_a_value(name: str) -> None:
    assert isinstance(getattr(laconic, name), int | str)


@pytest.mark.parametrize("name", laconic.__all__)
def test_a_public_name_is_on_the_api_page(name: str) -> None:
    """Each has an entry of its own, and the page has no others."""
    page = (ROOT / "docs" / "api.md").read_text()
    if name == "__version__":
        assert "`laconic.__version__`" in page
    else:
        assert re.search(rf"^::: laconic\.{name}$", page, re.MULTILINE)
    assert len(re.findall("^:::", page, re.MULTILINE)) == len(laconic.__all__) - 1


@pytest.mark.pure
@pytest.mark.parametrize("module", ["change", "html", "manager", "pal", "vma", "flags"])
def test_examples_in_docstrings(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"laconic.memory.{module}"))
    assert attempted > 0 and failed == 0


def test_a_name_splits_anonymous_memory(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, 3 * PAGE_SIZE, RW)
    pal.changes.clear()
    mm.set_vma_name(address, PAGE_SIZE, "heap arena")
    mm.set_vma_name(address, PAGE_SIZE, "heap arena")
    assert pal.kinds() == [ChangeKind.FLAGS]
    assert str(mm.space).splitlines()[0].endswith("[anon:heap arena]") and mm.space.map_count == 2
    mm.set_vma_name(address, 0, "nothing")
    for bad in ("a\\b", "new\nline", "[x]", "x" * 80, "é"):
        with pytest.raises(OSError) as error:
            mm.set_vma_name(address, PAGE_SIZE, bad)
        assert error.value.errno == EINVAL
    mm.set_vma_name(address, PAGE_SIZE, None)
    assert mm.space.map_count == 1


def test_a_policy_is_kept_per_page(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, 3 * PAGE_SIZE, RW)
    pal.changes.clear()
    mm.mbind(address, PAGE_SIZE, 2, b"\1\0\0\0\0\0\0\0")
    assert pal.kinds() == [ChangeKind.FLAGS]
    policies = [vma.policy for _, _, vma in mm.space.vmas]
    assert policies == [(2, b"\1"), None]
    mm.mbind(address, 0, 2, b"\1")
    for range_, errno in (((address + 1, PAGE_SIZE), EINVAL), ((address, 4 * PAGE_SIZE), EFAULT)):
        with pytest.raises(OSError) as error:
            mm.mbind(*range_, 2, b"\1")
        assert error.value.errno == errno
    mm.mbind(address, 4 * PAGE_SIZE, 0)
    assert mm.space.vmas.get(address) is not None


def test_the_settings_of_prctl(mm: MemoryManager, pal: Recorder) -> None:
    mm.mmap(None, PAGE_SIZE, RW)
    pal.changes.clear()
    mm.set_memory_merge(True)
    assert pal.kinds() == [ChangeKind.FLAGS] and mm.space.merge_any
    mm.set_mdwe()
    with pytest.raises(OSError) as error:
        mm.mmap(None, PAGE_SIZE, RW | PROT_EXEC)
    assert error.value.errno == EACCES


def test_a_segment_is_detached() -> None:
    shared = Vma(f.VM_READ | f.VM_WRITE | f.VM_SHARED, File(0, 1, 0, "/SYSV00000000"), 0x10000)
    pal = Recorder()
    space = AddressSpace(Layout(mmap_base=1 << 40), [(0x10000, 0x13000, shared)])
    mm = MemoryManager(pal, space)
    mm.shmdt(0x10000)
    assert pal.kinds() == [ChangeKind.UNMAP] and not mm.space.map_count
    with pytest.raises(OSError) as error:
        mm.shmdt(0x10000)
    assert error.value.errno == EINVAL


def test_every_modeled_call_is_a_method() -> None:
    """The others have an effect that only a host can describe."""
    by_prctl = {"prctl"}
    of_the_host = {
        "process_madvise", "set_mempolicy_home_node", "shmat", "io_setup", "io_destroy",
        "map_shadow_stack", "userfaultfd", "arch_prctl",
    }  # fmt: skip
    missing = {name for name in OPERATIONS if not hasattr(MemoryManager, name)}
    assert missing == by_prctl | of_the_host


def test_no_place_for_a_mapping_is_an_error(pal: Recorder) -> None:
    """Of shared files the library chooses the place; a full or an unknown layout has none."""
    big = OpenFile(File(8, 1, 77, "/data"), readable=True, writable=True, places=True, size=8 << 20)
    for base, error in ((None, ENOSYS), (f.TASK_SIZE, ENOMEM)):
        space = AddressSpace(Layout(mmap_base=base))
        mm = MemoryManager(pal, space)
        length = 4 << 20 if base is None else f.TASK_SIZE
        with pytest.raises(OSError, match=r"\w") as failure:
            mm.mmap(None, length, RW, f.MAP_SHARED, big)
        assert failure.value.errno == error
        assert mm.space.map_count == 0


def test_every_call_reaches_its_operation(mm: MemoryManager, pal: Recorder) -> None:
    start = mm.mmap(None, 8 * PAGE_SIZE, RW)
    pal.changes.clear()

    def pages() -> list[tuple[ChangeKind, int, int]]:
        shown = [
            (change.kinds, (change.start - start) // PAGE_SIZE, (change.end - start) // PAGE_SIZE)
            for change in pal.changes
        ]
        pal.changes.clear()
        return shown

    flags, advise = ChangeKind.FLAGS, ChangeKind.ADVISE
    mm.mlock(start, PAGE_SIZE)
    assert pages() == [(flags, 0, 1)]
    mm.mlock2(start + PAGE_SIZE, PAGE_SIZE, f.MLOCK_ONFAULT)
    assert pages() == [(flags, 1, 2)]
    mm.mlock2(start + PAGE_SIZE, PAGE_SIZE)
    assert pages() == [(flags, 1, 2)]
    mm.munlock(start + PAGE_SIZE, PAGE_SIZE)
    assert pages() == [(flags, 1, 2)]
    mm.mlockall()
    assert pages() == [(flags, 1, 8)] and mm.space.def_flags == 0
    mm.munlockall()
    assert pages() == [(flags, 0, 8)]
    mm.madvise(start, PAGE_SIZE, f.MADV_DONTFORK)
    assert pages() == [(flags, 0, 1)]
    mm.pkey_mprotect(start + 2 * PAGE_SIZE, PAGE_SIZE, RW, 3)
    assert pages() == [(flags, 2, 3)]
    mm.mseal(start + 7 * PAGE_SIZE, PAGE_SIZE)
    assert pages() == [(flags, 7, 8)]
    file = OpenFile(File(8, 1, 77, "/data"), readable=True, writable=True)
    start = mm.mmap(None, 2 * PAGE_SIZE, RW, f.MAP_SHARED | f.MAP_ANONYMOUS, file)
    pal.changes.clear()
    mm.msync(start, PAGE_SIZE)
    assert pages() == [(advise, 0, 1)]
    mm.remap_file_pages(start, PAGE_SIZE, 1)
    assert pages() == [(ChangeKind.FILE, 0, 1)]
    with pytest.raises(OSError, match="Linux host") as error:
        mm.remap_file_pages(start, 2 * PAGE_SIZE, 0)
    assert error.value.errno == ENOSYS
    moved = mm.mremap(
        start, PAGE_SIZE, PAGE_SIZE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED, start - PAGE_SIZE
    )
    assert moved == start - PAGE_SIZE
