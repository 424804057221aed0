"""Linux memory semantics: no I/O, nothing but the standard library."""
