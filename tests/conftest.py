"""Settings of all tests."""

import signal

# a shell's background jobs ignore Ctrl-C, and so would the runs that the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
