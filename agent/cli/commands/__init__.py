"""The commands, one module for each family: arguments in, output and exit code out."""
