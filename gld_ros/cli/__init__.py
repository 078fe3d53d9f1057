"""The `gld-ros` command line: `main` finds the commands, every other file here is one command."""
