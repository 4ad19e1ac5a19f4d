"""The targets of rd-export: one file and one row each."""
