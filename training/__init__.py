"""Images → an adapter, and the bundled miniature from nothing."""
