"""What the project claims, measured: one script a claim, its figures as JSON beside it."""
