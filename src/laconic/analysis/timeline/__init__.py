"""What an HTML page shows of a trace: collected by one replay, in memory that does not grow with
the trace."""
