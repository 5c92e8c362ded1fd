"""What fits on a device that isn't here: a catalogue, an allocator replayed over a traced step, a choice."""
