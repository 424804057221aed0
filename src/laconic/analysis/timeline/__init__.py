"""The data of an HTML page for a trace: collected by one replay, in memory that does not grow with
the trace."""
