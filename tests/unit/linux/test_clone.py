"""The flags of clone, by the numbers of their bits in include/uapi/linux/sched.h."""

from __future__ import annotations

from laconic.linux import clone

BITS = {
    "NEWTIME": 7, "VM": 8, "FS": 9, "FILES": 10, "SIGHAND": 11, "PIDFD": 12, "PTRACE": 13,
    "VFORK": 14, "PARENT": 15, "THREAD": 16, "NEWNS": 17, "SYSVSEM": 18, "SETTLS": 19,
    "PARENT_SETTID": 20, "CHILD_CLEARTID": 21, "DETACHED": 22, "UNTRACED": 23, "CHILD_SETTID": 24,
    "NEWCGROUP": 25, "NEWUTS": 26, "NEWIPC": 27, "NEWUSER": 28, "NEWPID": 29, "NEWNET": 30,
    "IO": 31, "CLEAR_SIGHAND": 32, "INTO_CGROUP": 33,
}  # fmt: skip


def test_each_flag_is_one_bit_above_the_signal() -> None:
    assert {f"CLONE_{name}": 1 << bit for name, bit in BITS.items()} == clone.CLONE_FLAGS
    assert clone.CSIGNAL == 255


def test_flags_with_a_name_of_their_own_have_the_same_value() -> None:
    constants = {name: value for name, value in vars(clone).items() if name.startswith("CLONE_")}
    del constants["CLONE_FLAGS"]
    assert len(constants) == 8
    assert constants.items() <= clone.CLONE_FLAGS.items()
