"""The registry of strategies: what it says of each, and a user's own strategy beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.compare import Model, compare, compare_host_calls
from laconic.analysis.sites import sites
from laconic.commands import main
from laconic.errors import LaconicError
from laconic.libos.strategy import Strategy
from laconic.libos.touches import Touches
from laconic.linux.pal import only_changes
from laconic.memory.calls import Arguments
from laconic.memory.change import Outcome
from laconic.memory.space import AddressSpace
from laconic.replay import replay_trace
from laconic.strategies import (
    LINUX,
    NAMES,
    SGX2,
    display_name,
    has_rule,
    linux_rule,
    names_on,
    strategy,
)
from laconic.strategies.classify import Classify
from laconic.trace.reader import TraceReader
from tests.helpers.traces import small


class NeverProtect(Strategy):
    """A user's strategy for Linux alone: an mprotect never reaches the host."""

    name = "never-protect"

    @staticmethod
    def linux_rule(name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
        """Elide mprotects, and pass every other call on."""
        return None if name == "mprotect" else args


class Partial(Classify):
    """A user's strategy for both hosts that inherits the rule for Linux."""

    name = "partial"


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_lists_the_hosts_for_which_a_class_has_a_rule(name: str) -> None:
    found = strategy(name)
    assert found.name == name
    assert (name in names_on(LINUX)) == (found.linux_rule is not None)
    assert name in names_on(SGX2) and has_rule(found, SGX2)


def test_a_strategy_is_given_by_name_by_place_or_as_its_class() -> None:
    place = f"{__name__}:Partial"
    assert strategy(Partial) is strategy(place) is Partial
    assert linux_rule(Partial) is linux_rule(place) is linux_rule("classify") is only_changes


def test_a_strategy_for_linux_alone_needs_no_methods_for_enclaves() -> None:
    assert has_rule(NeverProtect, LINUX) and not has_rule(NeverProtect, SGX2)
    with pytest.raises(LaconicError, match=r"'NeverProtect' lacks methods: define call, end, fork"):
        strategy(NeverProtect)


def test_options_are_for_enclaves_and_a_replay_there_accepts_them(tmp_path: Path) -> None:
    name = "laconic:batch=madvise"
    assert has_rule(name, SGX2) and not has_rule(name, LINUX)
    with pytest.raises(LaconicError, match="a strategy's options are for enclaves"):
        linux_rule(name)
    path = small(tmp_path / "a.trace")
    figures = tmp_path / "figures.json"
    words = ["replay", path, "--host", "sgx2", "--strategy", name, "--json", str(figures)]
    assert main(words) == 0
    replayed = json.loads(figures.read_text())
    assert list(replayed["enclave"]["strategies"]) == ["every-call", name]
    plain = replay_trace(path, "laconic")
    assert replay_trace(path, name).table_rows() == plain.table_rows()


def test_a_strategy_without_a_rule_for_linux_is_refused_there() -> None:
    class Enclave(Partial):
        linux_rule = None

    with pytest.raises(LaconicError, match="'Enclave' has no rule for Linux: define linux_rule"):
        linux_rule(Enclave)


@pytest.mark.parametrize("found", [str, "pathlib:Path", "pathlib:nothing", "no.such.module:Class"])
def test_a_class_that_is_not_a_strategy_is_named(found: str | type[Strategy]) -> None:
    with pytest.raises(LaconicError, match=r"is not a strategy|cannot be imported"):
        linux_rule(found)


@pytest.mark.parametrize("name", ["mine", "mine.Mine"])
def test_an_unknown_name_lists_the_form_of_a_user_s_own(name: str) -> None:
    with pytest.raises(LaconicError, match=r"edmm-tuned, or module:Class$"):
        strategy(name)


class Nameless(Classify):
    """Its author forgot to name it."""

    name = None  # type: ignore[assignment]


class Bound(Classify):
    """Its rule is a method."""

    name = "method"

    def linux_rule(self, name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
        """A rule that needs an object, of which there is none."""
        return args


def test_a_class_without_a_name_or_with_a_rule_that_needs_an_object_is_refused() -> None:
    for given in (Nameless, f"{__name__}:Nameless"):
        with pytest.raises(LaconicError, match=r"Nameless' has no name: add the class attribute"):
            strategy(given)
    with pytest.raises(LaconicError, match="'Nameless' has no name"):
        display_name(Nameless)
    with pytest.raises(LaconicError, match=r"'Bound': define linux_rule\(name, .* @staticmethod"):
        linux_rule(Bound)


def test_results_of_a_user_s_rule_and_fork_are_checked(tmp_path: Path) -> None:
    class Yes(NeverProtect):
        @staticmethod
        def linux_rule(name: str, args: Arguments, outcome: Outcome) -> Any:
            """True, as if it were a question."""
            return True

    class Childless(Classify):
        name = "childless"

        def fork(self, space: AddressSpace, touches: Touches) -> Any:
            """Nothing is returned."""

    path = small(tmp_path / "a.trace")
    with pytest.raises(LaconicError, match="linux_rule returned True for brk; return a tuple of"):
        compare_host_calls(path, Yes)
    assert linux_rule(Yes) is linux_rule(Yes), "equal rules are replayed once"
    for verify in (False, True):
        with pytest.raises(LaconicError, match="fork of Childless returned None; return the child"):
            compare(path, [Childless], model=Model(verify=verify))


def test_one_strategy_needs_no_list(tmp_path: Path) -> None:
    path = small(tmp_path / "a.trace")
    assert list(compare(path, "laconic", "pie-j5005").strategies) == ["laconic"]
    assert list(compare(path, Partial).strategies) == ["partial"]
    assert list(compare_host_calls(path, "laconic").strategies) == ["laconic"]
    assert list(sites(path, "laconic").meters) == ["laconic"]
    with pytest.raises(LaconicError, match="zz"):
        compare(path, "laconic", "zz")


def test_a_user_s_rule_for_linux_is_compared(tmp_path: Path) -> None:
    place = f"{__name__}:NeverProtect"
    compared = compare_host_calls(TraceReader(small(tmp_path / "a.trace")), ["every-call", place])
    passed = {
        name: replayed.ledger.by_call["mprotect"] for name, replayed in compared.strategies.items()
    }
    assert passed[place].host_calls == 0 < passed["every-call"].host_calls


def test_a_trace_s_recorded_strategy_imports_nothing(tmp_path: Path) -> None:
    path = small(tmp_path / "a.trace", about={"strategy": "no.such.module:Class", "command": ["a"]})
    assert replay_trace(TraceReader(path)).strategy == "no.such.module:Class"
