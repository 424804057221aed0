"""Results in, text out: pure functions, no I/O."""
