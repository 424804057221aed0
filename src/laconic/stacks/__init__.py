"""Stacks: where in a program a call was made. Unwinding at run time, symbols at report time."""
