"""Where the command line's settings come from: flags, then the environment, then a file; and what is wrong with them."""
