"""Settings of all tests."""

import os
import signal

# before PyTorch is imported: several tests at once, with several threads each, wait for one another most of the time
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell's background jobs ignore Ctrl-C, and so would the runs that the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
