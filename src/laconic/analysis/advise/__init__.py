"""Advice: what to write in a Gramine manifest and in a program's own settings, from what a trace
shows."""
