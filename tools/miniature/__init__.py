"""The miniature world: drawn scenes, their captions, and their painted versions."""
