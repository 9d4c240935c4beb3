"""Everything that trains the bundled miniature model; nothing here is needed to run it."""
