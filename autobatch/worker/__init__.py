"""The child's side: the process that trains, and may die without taking its parent with it."""
