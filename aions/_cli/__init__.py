"""The command line: util-linux's options over the public functions, a coroutine for each subcommand."""
