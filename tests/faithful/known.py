"""The regressions, and the tests of random calls, that fail today. A test that is named here and
passes is an error."""

KNOWN: frozenset[str] = frozenset()
