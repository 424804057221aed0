"""The regressions, and the tests of random calls, that fail today. A test that is named here and passes is an error."""

KNOWN: frozenset[str] = frozenset(
    {
        "brk-fails-unaligned",
        "brk-over-limit-static",
        "execute-only-key-denied-again",
        "mlock-of-secret",
        "verify-munlock-of-secret",
        *(f"seeds-{part}" for part in range(10)),
    }
)
