"""`/diagnostics` and `~/status`: entries as plain logic, and their publishers."""
