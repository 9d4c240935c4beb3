"""Adapter → evidence: the gallery with its showcase, the scores, the dashboard, and what people prefer, blind."""
