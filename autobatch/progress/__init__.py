"""Progress of a search: one live region on a terminal or in a notebook, lines elsewhere, and a log."""
