"""The painter: FLUX.1-dev, an Impressionist adapter, and a strength."""
