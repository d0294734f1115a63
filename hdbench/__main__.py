"""`python -m hdbench` is the command `hdbench`."""

from __future__ import annotations

import signal

from hdbench.cli import main

if __name__ == "__main__":
    try:
        main()
    finally:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # what is done is done: a stop at the very end makes no failure of it
