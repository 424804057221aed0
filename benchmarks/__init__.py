"""Benchmarks: `python -m benchmarks` prints the tables and writes them into docs/."""
