"""Adapter → evidence: the showcase gallery, and with numbers what an adapter does (not written yet)."""
