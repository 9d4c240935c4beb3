"""Evidence → the card that an adapter carries on the Hub, and a check of any adapter's folder."""
