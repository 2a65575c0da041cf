"""``python -m zoo`` is ``zoo``. Signals are taken before anything else is imported."""

import sys

from zoo.base.collector import own_process
from zoo.base.interrupts import listen

listen()
own_process()

from zoo.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
