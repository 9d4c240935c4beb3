"""python -m space [--port 7860] [--host 127.0.0.1] [--model auto] [--adapter auto] [--quantize auto]"""

from space.app import main

if __name__ == "__main__":
    main()
