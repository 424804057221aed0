"""Threads, processes, their starts and their ends, all in the middle of memory calls: exact, and
nothing hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracer.lab import (
    STRATEGIES,
    build,
    run_alone,
    run_laconic,
    skip_where_it_did,
    wait_until,
)

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@every_strategy
def test_threads_that_change_one_address_space_at_once(strategy: str) -> None:
    run = run_laconic(build("threads"), "8", "12", strategy=strategy)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.exact()


@every_strategy
def test_calls_that_fail_or_edit_nothing_beside_calls_that_do(strategy: str) -> None:
    run = run_laconic(build("races"), "25", strategy=strategy)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.exact()


@every_strategy
def test_a_timer_of_1_khz_during_memory_calls(strategy: str) -> None:
    run = run_laconic(build("signals"), "30", strategy=strategy)
    assert (run.status, run.out) == (0, "ticks some, queued 30\n"), run.err
    assert run.exact()


@every_strategy
@pytest.mark.parametrize(
    "name",
    [
        "fork",
        "vfork",
        "spawn",
        "clone",
        "clone3",
        "untraced-clone3",
        "failing-clone",
        "forking-threads",
        "zombies",
    ],
)
def test_every_way_to_start_a_process(name: str, strategy: str) -> None:
    run = run_laconic(build("processes"), name, strategy=strategy)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.exact()


@pytest.mark.parametrize("verify", ["exit", "call"])
def test_two_hundred_children_at_once(verify: str) -> None:
    run = run_laconic(build("processes"), "two-hundred", verify=verify)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.exact()
    assert run.figures["processes"] == 201
    if verify == "exit":
        assert run.figures["verify"]["checks"] == 201


def test_forks_that_the_kernel_refuses() -> None:
    done = run_alone([build("processes"), "limited"])
    run = run_laconic(build("processes"), "limited")
    assert (run.status, run.out) == (done.returncode, done.stdout)
    assert run.exact()
    assert run.figures["processes"] == 1


def test_stop_and_continue_in_the_middle_of_a_call_of_many_host_calls() -> None:
    run = run_laconic(build("processes"), "stopped", verify="exit")
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.exact()


def test_laconic_waits_for_a_daemon_but_has_the_first_program_s_status(tmp_path: Path) -> None:
    run = run_laconic(build("processes"), "daemon", tmp_path / "file")
    assert run.status == 3
    assert (tmp_path / "file").read_text() == "daemon was here"
    assert run.exact()
    assert run.figures["processes"] == 3


@pytest.mark.parametrize("verify", ["off", "exit", "call"])
@pytest.mark.parametrize("times", ["1", "4"])
def test_execve_from_a_thread_that_is_not_the_leader(times: str, verify: str) -> None:
    run = run_laconic(build("exec_thread"), times, verify=verify)
    assert (run.status, run.out) == (5, "last\n"), run.err
    assert run.figures["verify"]["mismatches"] == 0


def test_a_chain_of_programs() -> None:
    run = run_laconic(
        "sh", "-c", "exec env A=1 sh -c 'exec nice sh -c \"echo $A; exec true\"'", verify="exit"
    )
    assert (run.status, run.out) == (0, "1\n")
    assert run.exact()


@pytest.mark.parametrize("verify", ["off", "exit", "call"])
def test_exit_group_while_other_threads_are_in_memory_calls(verify: str) -> None:
    run = run_laconic(build("dying"), "exit-group", verify=verify)
    assert run.status == 9, run.err
    assert run.figures["verify"]["mismatches"] == 0
    run = run_laconic(build("dying"), "many-exits", verify=verify)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.figures["verify"]["mismatches"] == 0
    if verify == "exit":
        # Not always 13: the kill of a thread can overtake what the tracer is about to ask of it.
        assert run.figures["verify"]["checks"] >= 8


@pytest.mark.parametrize("verify", ["off", "exit", "call"])
@pytest.mark.parametrize("name", ["sibling", "sibling-with-threads"])
def test_a_process_killed_in_a_call_beside_another_on_its_address_space(
    name: str, verify: str
) -> None:
    run = run_laconic(build("dying"), name, verify=verify)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.figures["verify"]["mismatches"] == 0


@pytest.mark.parametrize("verify", ["off", "exit", "call"])
def test_processes_killed_at_any_moment(verify: str) -> None:
    run = run_laconic(build("dying"), "random-kills", verify=verify)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.figures["verify"]["mismatches"] == 0


@pytest.mark.parametrize(("name", "status"), [("segv", 139), ("abort", 134)])
def test_a_program_that_dies_of_a_signal(name: str, status: int) -> None:
    done = run_alone([build("dying"), name])
    run = run_laconic(build("dying"), name)
    assert done.returncode == 128 - status
    assert (run.status, run.out, run.figures["exit_status"]) == (status, done.stdout, status)
    assert run.exact()


def test_a_core_is_still_dumped(tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith("|") or "/" in pattern:
        pytest.skip(f"this machine sends cores elsewhere: {pattern}")
    script = "import resource, os; resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)); os.abort()"
    run = run_laconic("python3", "-c", script, verify="off", cwd=tmp_path)
    assert run.status == 134
    wait_until(lambda: any(tmp_path.glob("core*")), "the core")


@pytest.mark.parametrize("strategy", ["laconic", "every-call"])
@pytest.mark.parametrize("name", ["populate", "mlock", "mlockall", "discard"])
def test_a_call_blocked_on_a_page_that_another_thread_brings(name: str, strategy: str) -> None:
    alone = run_alone([build("blocked"), name])
    skip_where_it_did(alone)
    run = run_laconic(build("blocked"), name, strategy=strategy)
    assert (run.status, run.out) == (alone.returncode, alone.stdout), run.err
    assert run.exact()


def test_a_shell_with_job_control() -> None:
    # A traced program shows as "t" while it is stopped, but also for a moment at each of its memory
    # calls.
    script = """
    set -m
    sleep 30 & job=$!
    for signal in STOP CONT TERM; do sleep 0.1; kill -$signal $job; done
    sleep 0.1; wait $job; echo "ended $?"
    set +m
    (trap 'echo got it; exit 3' USR1; kill -STOP $BASHPID; while :; do sleep 0.05; done) & job=$!
    for look in 1 2 3 4 5 6; do while ! grep -q 'State:.[tT]' /proc/$job/status; do look=1; done; sleep 0.02; done
    kill -USR1 $job; kill -CONT $job; wait $job; echo "ended $?"
    """  # noqa: E501
    native = run_alone(["bash", "-c", script])
    run = run_laconic("bash", "-c", script, verify="exit")
    assert native.stdout == "ended 143\ngot it\nended 3\n"
    assert (run.status, run.out) == (native.returncode, native.stdout)
    assert run.exact()
