"""Reports: pure functions from results to text, without I/O."""
