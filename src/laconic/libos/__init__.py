"""Gramine's work around a program's memory calls."""
