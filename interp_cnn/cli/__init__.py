"""The command line: finds the command, answers help and mistakes before torch is imported."""
