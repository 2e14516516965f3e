"""The commands, one recipe each."""
