"""The Gradio page and its API: one prompt painted twice, without and with the Impressionist adapter.

python -m space
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read by gradio when it is imported
