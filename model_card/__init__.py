"""Evidence → the card that an adapter carries on the Hub (not written yet)."""
