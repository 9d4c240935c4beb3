"""What goes wrong and can be mended by the person who reads it."""


class UserError(ValueError):
    """One clear sentence for a person: what is wrong and what to do about it."""
