"""Pages of the command evaluate: tables and ranked filters."""
