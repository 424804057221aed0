"""The Linux host: host calls, and what `/proc` shows."""
