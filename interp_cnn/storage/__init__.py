"""Files that are whole or not there: text, tables, tensors, names, fingerprints, progress."""
