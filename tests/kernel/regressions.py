"""Sequences that once showed a bug, by what the bug was. `python -m tests.kernel.fuzz` prints them
in this form."""

from __future__ import annotations

from laconic.memory.calls import Call
from tests.model.strategies import HEAP, LOW, STACK, TOP

_NO_FD = 0xFFFFFFFFFFFFFFFF

SEQUENCES: dict[str, list[Call]] = {
    "a_second_mapping_over_its_own_source": [
        Call("mmap", (LOW + 0xB000, 0x6000, 3, 0x11, 0xC8, 0x2000)),
        Call("mremap", (LOW + 0xC000, 0, 0x4000, 3, LOW + 0xC000)),
    ],
    "a_move_onto_what_is_sealed_may_have_begun": [
        Call("mmap", (LOW + 0x0, 0x4000, 3, 0x32, _NO_FD, 0)),
        Call("mmap", (LOW + 0x9000, 0xC000, 6, 0x18032, _NO_FD, 0)),
        Call("mseal", (LOW + 0xD000, 0x1000, 0)),
        Call("munmap", (LOW + 0x2000, 0xBF9C)),
        Call("mremap", (LOW + 0x0, 0x3FFF, 0x4000, 3, LOW + 0xA000)),
    ],
    "dontunmap_refuses_vmas_that_only_look_like_one": [
        Call("mmap", (0, 0x4000, 1, 0x28, _NO_FD, 0)),
        Call("mmap", (0, 0x8000, 3, 0x8002, 0xC8, 0x4000)),
        Call("mmap", (TOP - 0xB000, 0x1000, 1, 0x12, 0xC9, 0x5000)),
        Call("mprotect", (TOP - 0xB000, 0x5000, 3)),
        Call("mremap", (TOP - 0xB000, 0x6000, 0x6000, 5, LOW + 0x3000)),
    ],
    "dontunmap_unlocks_the_whole_vma": [
        Call("mmap", (TOP - 0x14000, 0xC000, 7, 0x2022, _NO_FD, 0)),
        Call("mremap", (TOP - 0x12000, 0x8000, 0x8000, 7, LOW + 0xA000)),
    ],
    "a_directory_and_a_pipe_cannot_be_mapped": [
        Call("mmap", (LOW + 0x13000, 0x1000, 4, 0x811, 204, 0x3000)),
        Call("mmap", (TOP - 0x15000, 0x6000, 5, 0x100002, 203, 0x1000)),
        Call("mmap", (0, 0x7FFFFFFFF000, 1, 0x80, 204, 0x7000)),
    ],
    "an_offset_beyond_the_largest_file": [
        Call("mmap", (LOW + 0x5000, 0x3000, 0, 2, 200, 0x8000000000000000)),
    ],
    "a_guard_gap_hides_the_holes_below_it": [
        Call("mmap", (LOW + 0x12000, 0x4000, 6, 0x1032, _NO_FD, 0)),
        Call("mmap", (0, 0x1000, 0, 0x122, _NO_FD, 0)),
        Call("mmap", (TOP - 0x12000, 0x1000, 1, 0x100002, 200, 0x5000)),
        Call("mmap", (LOW + 0x14000, 0x6000, 1, 0x22, _NO_FD, 0)),
    ],
    "mremap_overlap_is_computed_modulo_2_to_the_64": [
        Call("mremap", (LOW + 0x10000, 0xFFFFFFFFFFFFF000, 0x5000, 3, TOP - 0x15000)),
    ],
    "map_sync_is_the_file_systems_to_refuse": [
        Call("mmap", (LOW + 0xB000, 0x4000, 0, 0x80012, 201, 0x6000)),
        Call("mmap", (LOW + 0x15000, 0x1000, 5, 0x180001, 201, 0x1000)),
        Call("mmap", (0, 0x6000, 2, 0x80003, 203, 0x2000)),
        Call("mmap", (0, 0x7FFFFFFFF000, 7, 0x80002, 202, 0x7000)),
    ],
    "a_shrinking_move_may_span_a_hole": [
        Call("mmap", (LOW + 0x15000, 0x5000, 3, 0x1000012, 201, 0x7000)),
        Call("mremap", (LOW + 0x16000, 0x6000, 0x4000, 3, TOP - 0x11000)),
    ],
    "a_stack_grows_up_to_a_neighbour_that_looks_alike": [
        Call("mmap", (LOW + 0x3000, 0x5000, 7, 0x132, _NO_FD, 0)),
        Call("mremap", (LOW + 0x5000, 0x8000, 0x8000, 3, LOW + 0x15000)),
        Call("write", (LOW + 0xD000, 4)),
        Call("mremap", (LOW + 0x11000, 0x2000, 0x2000, 3, LOW + 0x6000)),
        Call("read", (LOW + 0x11000, 1)),
    ],
    "droppable_memory_is_never_locked": [
        Call("mlockall", (3,)),
        Call("mmap", (LOW + 0x1000, 0x2000, 3, 0x38, _NO_FD, 0)),
        Call("mmap", (0, 0x4000, 3, 0x28, _NO_FD, 0)),
    ],
    "a_move_of_several_vmas_that_stops_half_way": [
        Call("mmap", (LOW + 0x14000, 0x8000, 2, 0xB2, _NO_FD, 0)),
        Call("mseal", (LOW + 0x16000, 0x1000, 0)),
        Call("mremap", (LOW + 0x15000, 0x3000, 0x3000, 3, TOP - 0x6000)),
    ],
    "a_move_of_several_vmas_unlocks_beyond_its_range": [
        Call("mmap", (0, 0x8000, 2, 0x2021, _NO_FD, 0)),
        Call("mremap", (TOP - 0x3000, 0x4000, 0x4000, 7, STACK + 0x1000)),
    ],
    "shared_validate_refuses_fixed_noreplace": [
        Call("mmap", (LOW + 0x7000, 0x1000, 2, 0x102013, 200, 0x6000)),
        Call("mmap", (HEAP + 0x4000, 0x6000, 6, 0x100003, 202, 0)),
        Call("mmap", (LOW + 0x16000, 0x3000, 1, 3, 200, 0x2000)),
        Call("mmap", (0, 0xC000, 6, 0x2003, 200, 0x5000)),
    ],
    "huge_pages_are_aligned_below_2_gib_too": [
        Call("mmap", (0, 0x400000, 1, 0x20062, _NO_FD, 0)),
    ],
    "a_hint_below_64_kib_is_rounded_by_the_host": [
        Call("mmap", (0x1000, 0xC000, 5, 0x21, _NO_FD, 0)),
    ],
    "no_place_is_found_before_access_is_judged": [
        Call("mmap", (LOW + 0x12000, 0x7FFFFFFFF000, 0, 2, 202, 0x1000)),
    ],
    "remap_file_pages_forgets_what_madvise_set": [
        Call("mmap", (LOW + 0xE000, 0xC000, 7, 0x4031, _NO_FD, 0)),
        Call("remap_file_pages", (LOW + 0x15000, 0x1000, 0, 5, 0)),
        Call("mmap", (LOW + 0x14000, 0x8000, 3, 0x4011, 200, 0x5000)),
        Call("remap_file_pages", (LOW + 0x15000, 0x2000, 0, 6, 0)),
    ],
    "what_is_sealed_and_read_only_stays_in_children": [
        Call("mmap", (LOW + 0xC000, 0xC000, 1, 0x4032, _NO_FD, 0)),
        Call("mseal", (LOW + 0x13000, 0x5000, 0)),
        Call("madvise", (LOW + 0x12000, 0x6000, 10)),
        Call("madvise", (LOW + 0x12000, 0x6000, 18)),
    ],
    "populate_stops_at_the_first_hole": [
        Call("mmap", (LOW + 0xC000, 0xC000, 2, 0x2012, 201, 0x5000)),
        Call("madvise", (LOW + 0x5000, 0xC000, 22)),
        Call("madvise", (LOW + 0x5000, 0xC000, 23)),
    ],
    "mlock_of_inaccessible_pages_fails_though_all_is_in_memory": [
        Call("mmap", (LOW + 0x4000, 0x5000, 6, 0x8031, _NO_FD, 0)),
        Call("mprotect", (LOW + 0x5000, 0x8000, 0)),
        Call("mlockall", (1,)),
        Call("mlock", (LOW + 0x6000, 0x1000)),
    ],
    "vmas_that_look_alike_are_two_to_mremap": [
        Call("mmap", (LOW + 0xF000, 0x8000, 0, 0x8038, _NO_FD, 0)),
        Call("mmap", (LOW + 0xA000, 0x5000, 3, 0x22, _NO_FD, 0)),
        Call("mremap", (LOW + 0xD000, 0x1000, 0x1000, 5, STACK - 0x2000)),
        Call("mmap", (LOW + 0x11000, 0x8000, 3, 0x80022, _NO_FD, 0)),
        Call("mremap", (TOP - 0x3000, 0x3000, 0x5000, 1, TOP - 0x17000)),
    ],
}
