"""The regressions, and the tests of random calls, that fail today. A test that is named here and passes is an error."""

KNOWN: frozenset[str] = frozenset(
    {
        "errno-exec-growsdown-file",
        "errno-hugetlb-offset",
        "errno-hugetlb-size",
        "errno-key-unmapped",
        "errno-locked-over-limit",
        "errno-mlock-wraps-over-limit",
        "errno-noreplace-hugetlb",
        "errno-path-descriptor",
        "errno-path-descriptor-noreplace",
        "execute-only-key-of-a-failed-mmap",
        "exit-order",
        "group-signal-alrm",
        "group-signal-rtmin",
        "hugetlb-shared-validate",
        "mdwe-no-inherit",
        "memory-merge",
        "memory-merge-refused-hole",
        "shmdt-id-zero",
        "verify-remap-read-implies-exec",
        "verify-sealed",
        "verify-secret",
        "verify-zero-moved",
        *(f"seeds-{part}" for part in range(10)),
    }
)
