"""Loaded by the workers of this machine before they begin."""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the sweep, which ends its workers
