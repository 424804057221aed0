"""VMAs, files, changes and flags as values: what they compare, and how they print."""

from __future__ import annotations

import mmap as host
import re
from pathlib import Path

import pytest

from laconic.memory import flags as f
from laconic.memory.change import (
    ADVISE,
    EXTEND,
    FLAGS,
    MAP,
    NOTHING,
    RESTRICT,
    UNMAP,
    ZERO,
    Change,
    ChangeKind,
    Outcome,
    classify,
    coalesce,
    kind_names,
)
from laconic.memory.change import (
    FILE as FILE_KIND,
)
from laconic.memory.flags import Prot, flag_names
from laconic.memory.vma import LOG_DEVICE, File, Vma, describe
from tests.helpers.pictures import FILE, LEGEND, MAY, PAGE, RW, SHARED, R, X, at

# Files


def test_a_file_is_its_device_and_inode() -> None:
    assert File(8, 1, 7, "/a") == File(8, 1, 7, "/b")
    assert len({File(8, 1, 7, "/a"), File(8, 2, 7, "/a"), File(8, 1, 8, "/a")}) == 3
    assert File(8, 161, 7).device == "08:a1"


@pytest.mark.parametrize(
    ("file", "secret", "memory", "disk"),
    [
        (File(8, 1, 7, "/lib/a.so"), False, False, True),
        (File(0, 1, 7, "/secretmem (deleted)"), True, False, True),
        (File(0, 1, 7, "/dev/zero (deleted)"), False, True, False),
        (File(0, 1, 7, "/SYSV00000000 (deleted)"), False, True, False),
        (File(0, 1, 7, "/memfd:x (deleted)"), False, True, False),
        (File(0, 1, -3, "/a"), False, False, False),
        (File(*LOG_DEVICE, -3, "/a"), False, False, True),
        (File(*LOG_DEVICE, -3, "/dev/zero"), False, True, False),
        (File(0, 1, 0, "/a"), False, False, False),
        (File(0, 1, 1, "/a"), False, False, True),
    ],
)
def test_where_a_file_has_its_contents(file: File, secret: bool, memory: bool, disk: bool) -> None:
    assert (file.is_secret, file.in_memory, file.is_on_disk) == (secret, memory, disk)


# VMAs


@pytest.mark.parametrize(
    ("vma", "anonymous"),
    [
        (Vma(RW), True),
        (Vma(RW, FILE), False),
        (Vma(RW, File(0, 6, 5, "/dev/zero")), True),
        (Vma(RW | f.VM_MAYSHARE, File(0, 6, 5, "/dev/zero")), False),
    ],
)
def test_private_memory_without_contents_of_a_file_is_anonymous(vma: Vma, anonymous: bool) -> None:
    assert vma.anonymous == anonymous


@pytest.mark.parametrize(
    ("flags", "locked"), [(0, False), (f.VM_LOCKED, True), (f.VM_LOCKED_MASK, False)]
)
def test_locked_at_once_is_not_locked_on_fault(flags: int, locked: bool) -> None:
    assert Vma(RW | flags).is_locked == locked


def test_other_flags_leave_everything_else() -> None:
    vma = Vma(RW, FILE, at(1), "name", 2, (1, b"\1"))
    assert vma.with_flags(R) == vma._replace(flags=R)
    assert type(vma.with_flags(R)) is Vma


def test_a_moved_file_mapping_takes_its_base_along() -> None:
    vma = Vma(RW, FILE, at(1), "name", 2, (1, b"\1"))
    assert vma.moved(PAGE) == vma._replace(base=at(2))
    assert LEGEND["w"].moved(PAGE) is LEGEND["w"]


@pytest.mark.parametrize(
    ("vma", "text"),
    [
        (LEGEND["w"], "<Vma rw-p>"),
        (LEGEND["s"], "<Vma rw-s /lib/file.so, byte 0 at 1000000000>"),
        (LEGEND["L"], "<Vma rw-p lo>"),
        (Vma(R | MAY, FILE, -PAGE), "<Vma r--p /lib/file.so, byte 0 at -1000>"),
        (Vma(X, name="heap", pkey=3, policy=(2, b"")), "<Vma --xp [anon:heap] pkey 3 policy 2>"),
        (Vma(0, File(8, 1, 7), 0), f"<Vma ---p {File(8, 1, 7)}, byte 0 at 0>"),
    ],
)
def test_a_vma_prints_its_attributes(vma: Vma, text: str) -> None:
    assert repr(vma) == text


@pytest.mark.parametrize(
    ("vma", "text"),
    [
        (None, "00001000-00003000 (nothing)"),
        (Vma(RW), "00001000-00003000 rw-p 00000000 00:00 0 [rd wr]"),
        (Vma(RW, name="a b"), "00001000-00003000 rw-p 00000000 00:00 0 [anon:a b] [rd wr]"),
        (
            Vma(R | SHARED, FILE, 0),
            "00001000-00003000 r--s 00001000 08:01 77 /lib/file.so [rd sh ms]",
        ),
    ],
)
def test_one_line_as_proc_maps_has_it(vma: Vma | None, text: str) -> None:
    assert describe(0x1000, 0x3000, vma) == text


def test_a_protection_for_people() -> None:
    assert LEGEND["L"].prot == Prot.READ | Prot.WRITE


# Changes


@pytest.mark.parametrize(
    ("held", "wanted", "kind"),
    [
        (None, None, 0),
        (None, LEGEND["w"], MAP),
        (LEGEND["w"], None, UNMAP),
        (LEGEND["w"], Vma(RW | MAY), 0),
        (LEGEND["r"], LEGEND["w"], EXTEND),
        (LEGEND["w"], LEGEND["r"], RESTRICT),
        (LEGEND["w"], LEGEND["x"], EXTEND | RESTRICT),
        (LEGEND["w"], LEGEND["L"], FLAGS),
        (LEGEND["w"], LEGEND["w"]._replace(name="heap"), FLAGS),
        (LEGEND["w"], LEGEND["w"]._replace(pkey=1), FLAGS),
        (LEGEND["w"], LEGEND["w"]._replace(policy=(1, b"")), FLAGS),
        (LEGEND["f"], Vma(R | MAY, File(8, 1, 77, "/renamed"), LEGEND["f"].base), 0),
        (LEGEND["f"], LEGEND["f"]._replace(base=0), FILE_KIND),
        (LEGEND["f"], LEGEND["f"]._replace(file=File(8, 1, 78)), FILE_KIND),
        (LEGEND["r"], LEGEND["f"], FILE_KIND),
        (LEGEND["r"], LEGEND["s"], FILE_KIND | EXTEND | FLAGS),
    ],
)
def test_kinds_of_change(held: Vma | None, wanted: Vma | None, kind: int) -> None:
    assert kind_names(classify(held, wanted)) == kind_names(kind)


def test_kinds_are_bits_in_the_order_of_their_names() -> None:
    plain = MAP, UNMAP, FLAGS, FILE_KIND, EXTEND, RESTRICT, ZERO, ADVISE
    assert plain == tuple(int(kind) for kind in ChangeKind if kind)
    assert kind_names(0) == "NOTHING" and kind_names(MAP | ZERO) == "MAP|ZERO"
    assert Change(MAP | ZERO, 0, PAGE, None, None).kinds == ChangeKind.MAP | ChangeKind.ZERO


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change(MAP, 0x1000, 0x2000, LEGEND["w"], None), "MAP 1000-2000 rw-p"),
        (Change(UNMAP, 0, PAGE, None, LEGEND["w"]), "UNMAP 0-1000, was rw-p"),
        (Change(FLAGS, 0, PAGE, LEGEND["L"], LEGEND["D"]), "FLAGS 0-1000 rw-p +lo -dc"),
        (Change(MAP, 0, PAGE, LEGEND["f"], None), "MAP 0-1000 r--p /lib/file.so"),
        (Change(MAP, 0, PAGE, Vma(R, File(8, 1, 9)), None), "MAP 0-1000 r--p 9"),
        (Change(MAP, 0, PAGE, LEGEND["w"], None, 0x5000), "MAP 0-1000 rw-p, from 5000"),
    ],
)
def test_a_change_prints_what_differs(change: Change, text: str) -> None:
    assert str(change) == text
    assert repr(change) == f"<Change {text}>"


def test_an_outcome_prints_its_result_and_its_work() -> None:
    change = Change(MAP, 0, PAGE, LEGEND["w"], None)
    assert repr(Outcome(-12)) == "<Outcome result=-12>"
    assert repr(Outcome(-4095)) == "<Outcome result=-4095>"
    assert repr(Outcome(4096)) == "<Outcome result=0x1000>"
    assert repr(Outcome(-4096)) == "<Outcome result=-0x1000>"
    printed = repr(Outcome(0, (change,), ask=True, place=True, resync=True))
    assert printed == "<Outcome result=0; ask; place; resync; MAP 0-1000 rw-p>"
    assert Outcome(0) == NOTHING == (0, (), 0, 0, False, False, False, None)


def test_runs_that_touch_are_one() -> None:
    changes = [Change(MAP, start, start + PAGE, None, None) for start in (0, PAGE, 3 * PAGE)]
    assert coalesce(changes) == [(0, 2 * PAGE), (3 * PAGE, 4 * PAGE)]


# Flags

KERNEL = Path("/usr/include")


def defines(*headers: str) -> dict[str, int]:
    """The numbers that the kernel's headers define."""
    found: dict[str, int] = {}
    for header in headers:
        for path in (KERNEL / "linux" / header, KERNEL / "asm-generic" / header):
            text = path.read_text() if path.exists() else ""
            for name, value in re.findall(
                r"^#define\s+(\w+)\s+(0x[0-9a-fA-F]+|\d+)\b", text, re.MULTILINE
            ):
                found[name] = int(value, 0)
    return found


def test_constants_are_those_of_the_kernel_s_headers() -> None:
    kernel = defines("mman.h", "mman-common.h")
    if "MAP_PRIVATE" not in kernel:
        pytest.skip("this machine has no kernel headers")
    ours = {
        name: value
        for name, value in vars(f).items()
        if name.startswith(("MAP_", "MADV_", "PROT_", "MS_", "MCL_", "MREMAP_"))
    }
    shared = {name: value for name, value in ours.items() if name in kernel}
    assert len(shared) > 50
    assert shared == {name: kernel[name] for name in shared}


def test_constants_are_those_of_python_s_mmap() -> None:
    names = [
        name
        for name in dir(f)
        if name.startswith(("MAP_", "MADV_", "PROT_")) and hasattr(host, name)
    ]
    assert len(names) > 20
    assert {name: getattr(f, name) for name in names} == {
        name: getattr(host, name) for name in names
    }


def test_flags_are_those_of_the_kernel() -> None:
    # include/linux/mm.h, on x86-64
    assert (f.VM_READ, f.VM_WRITE, f.VM_EXEC, f.VM_SHARED) == (1, 2, 4, 8)
    bits = {
        "MAYREAD": 4, "MAYWRITE": 5, "MAYEXEC": 6, "MAYSHARE": 7, "GROWSDOWN": 8, "PFNMAP": 10,
        "LOCKED": 13, "IO": 14, "SEQ_READ": 15, "RAND_READ": 16, "DONTCOPY": 17,
        "DONTEXPAND": 18, "LOCKONFAULT": 19, "NORESERVE": 21, "HUGETLB": 22, "SYNC": 23,
        "WIPEONFORK": 25, "DONTDUMP": 26, "MIXEDMAP": 28, "HUGEPAGE": 29, "NOHUGEPAGE": 30,
        "MERGEABLE": 31,
    }  # fmt: skip
    assert {name: getattr(f, f"VM_{name}") for name in bits} == {
        name: 1 << bit for name, bit in bits.items()
    }
    assert (f.VM_SHADOW_STACK, f.VM_DROPPABLE, f.VM_SEALED) == (1 << 37, 1 << 40, 1 << 42)
    assert {code: f.VMFLAG_CODES[code] for code in ("ss", "dp", "sl")} == {
        "ss": 1 << 37,
        "dp": 1 << 40,
        "sl": 1 << 42,
    }
    assert f.VM_LOCKED_MASK == f.VM_LOCKED | f.VM_LOCKONFAULT
    assert f.VM_MAY_RWX == f.VM_PROT << 4 == 0x70
    assert len(set(f.VMFLAG_CODES.values())) == len(f.VMFLAG_CODES)
    assert sum(f.VMFLAG_CODES.values()) == f.VM_SHOWN


def bits(mask: int) -> set[int]:
    """The numbers of the bits that are set."""
    return {bit for bit in range(64) if mask >> bit & 1}


def test_masks_of_several_flags() -> None:
    # LEGACY_MAP_MASK in include/linux/mman.h, with the size of huge pages in bits 26 to 31
    legacy = {0, 1, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, *range(26, 32)}
    assert bits(f.LEGACY_MAP_MASK) == legacy
    # VM_SPECIAL in include/linux/mm.h, vma_ksm_compatible in mm/ksm.c
    assert bits(f.VM_SPECIAL) == {10, 14, 18, 28}
    assert bits(f.VM_UNMERGEABLE) == {3, 7, 22, 40} | bits(f.VM_SPECIAL)


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("PROT_", {"NONE": 0, "READ": 1, "WRITE": 2, "EXEC": 4, "SEM": 8}),
        ("PROT_GROWS", {"DOWN": 1 << 24, "UP": 1 << 25}),
        ("MREMAP_", {"MAYMOVE": 1, "FIXED": 2, "DONTUNMAP": 4}),
        ("MS_", {"ASYNC": 1, "INVALIDATE": 2, "SYNC": 4}),
        ("MCL_", {"CURRENT": 1, "FUTURE": 2, "ONFAULT": 4}),
        ("MLOCK_", {"ONFAULT": 1}),
        ("MAP_HUGE_", {"SHIFT": 26, "MASK": 63}),
        (
            "MAP_",
            {
                "SHARED": 1,
                "PRIVATE": 2,
                "SHARED_VALIDATE": 3,
                "DROPPABLE": 8,
                "TYPE": 15,
                "FIXED": 0x10,
                "ANONYMOUS": 0x20,
                "32BIT": 0x40,
                "ABOVE4G": 0x80,
                "GROWSDOWN": 1 << 8,
                "DENYWRITE": 1 << 11,
                "EXECUTABLE": 1 << 12,
                "LOCKED": 1 << 13,
                "NORESERVE": 1 << 14,
                "POPULATE": 1 << 15,
                "NONBLOCK": 1 << 16,
                "STACK": 1 << 17,
                "HUGETLB": 1 << 18,
                "SYNC": 1 << 19,
                "FIXED_NOREPLACE": 1 << 20,
                "UNINITIALIZED": 1 << 26,
            },
        ),
        (
            "MADV_",
            {
                "NORMAL": 0,
                "RANDOM": 1,
                "SEQUENTIAL": 2,
                "WILLNEED": 3,
                "DONTNEED": 4,
                "FREE": 8,
                "REMOVE": 9,
                "DONTFORK": 10,
                "DOFORK": 11,
                "MERGEABLE": 12,
                "UNMERGEABLE": 13,
                "HUGEPAGE": 14,
                "NOHUGEPAGE": 15,
                "DONTDUMP": 16,
                "DODUMP": 17,
                "WIPEONFORK": 18,
                "KEEPONFORK": 19,
                "COLD": 20,
                "PAGEOUT": 21,
                "POPULATE_READ": 22,
                "POPULATE_WRITE": 23,
                "DONTNEED_LOCKED": 24,
                "COLLAPSE": 25,
                "HWPOISON": 100,
                "SOFT_OFFLINE": 101,
                "GUARD_INSTALL": 102,
                "GUARD_REMOVE": 103,
            },
        ),
    ],
)
def test_constants_are_those_of_x86_64(prefix: str, names: dict[str, int]) -> None:
    # include/uapi/asm-generic/mman-common.h, mman.h, and arch/x86/include/uapi/asm/mman.h
    assert {name: getattr(f, prefix + name) for name in names} == names


def test_sizes_of_the_address_space() -> None:
    assert (f.PAGE_SIZE, f.PAGE_MASK, f.PMD_SIZE) == (4096, -4096, 2 << 20)
    assert f.TASK_SIZE == 0x7FFFFFFFF000 and f.ADDRESS_MASK == (1 << 64) - 1
    assert f.MAX_ERRNO == 4095


def test_codes_of_the_vmflags_line() -> None:
    assert flag_names(RW | MAY | SHARED | f.VM_SEALED) == "rd wr sh mr mw me ms sl"
    assert f.VMFLAG_BITS[b"lo"] == f.VM_LOCKED and len(f.VMFLAG_BITS) == len(f.VMFLAG_CODES)
    assert not f.LEGACY_MAP_MASK & (f.MAP_SYNC | f.MAP_FIXED_NOREPLACE)
