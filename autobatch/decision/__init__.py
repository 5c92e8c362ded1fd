"""Pure decisions: trials and a check in, what to measure next or what to recommend out."""
