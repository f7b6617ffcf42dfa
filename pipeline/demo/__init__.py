"""A toy world with a planted shortcut, on which every stage can be seen to work."""
