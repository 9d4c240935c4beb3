"""The painter: FLUX.1-dev, an Impressionist adapter, and a strength."""

import logging

# Some processors have a faster 4-bit product in a library of its own, which bitsandbytes asks everybody to install.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
