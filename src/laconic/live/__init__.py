"""A program's memory calls while it runs: what `laconic live` shows."""
