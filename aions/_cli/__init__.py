"""The command line: util-linux's options over the public functions, a module for each subcommand."""
