"""The batch size that fits on an absent device, by replaying the allocator over a traced step."""
