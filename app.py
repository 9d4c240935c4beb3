"""Opens the page on a Hugging Face Space, which runs this file (`app_file` in the Space's README)."""

from space.__main__ import main

if __name__ == "__main__":
    main([])
