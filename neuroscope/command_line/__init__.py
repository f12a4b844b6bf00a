"""The command line: one table of commands, whose options are read from the functions that they call."""
