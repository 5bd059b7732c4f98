"""Standard output, standard error and the signals that end the program, whatever it is started from: a terminal, a
script, a pipe, a notebook."""
import os
import signal
import sys
import threading
from contextlib import contextmanager

SIGPIPE = 13  # Windows has no name for it


class Stream:
    """A standard stream that never fails: what cannot be written, and all that follows, is discarded.

    output: whether it is standard output. Then it is said, and where its reader has gone (`| head`), that is handled as
    the signal SIGPIPE, as SIGTERM is.
    """

    def __init__(self, stream, output):
        self._stream, self._output = stream or open(os.devnull, 'w'), output  # None: closed

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        try:
            self._stream.write(text)
        except OSError as error:
            if threading.current_thread() is threading.main_thread():  # the others leave it to that one to find out
                self._discard()
                if self._output:
                    self._report(error)

    def flush(self):
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _discard(self):
        """Discard what is kept, too, which Python would else try to write when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    @staticmethod
    def _report(error):
        handler = signal.getsignal(signal.SIGTERM)
        if not isinstance(error, BrokenPipeError):
            print('standard output cannot be written (%s): going on without' % error.strerror, file=sys.stderr)
        elif callable(handler):
            handler(SIGPIPE, None)


@contextmanager
def console():
    """While this lasts sys.stdout and sys.stderr are Streams that write each line at once, and any file name; SIGINT
    (Ctrl-C), SIGTERM and SIGHUP (the terminal is closed) raise KeyboardInterrupt with their number.

    Where nobody catches that, the program ends with the status that shells expect, without a word.
    """
    number = 0
    while number < 3:  # what is opened next would else get a closed stream's number, and with it what C++ has to say
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    kept = sys.stdout, sys.stderr
    for stream in kept:
        if hasattr(stream, 'reconfigure'):  # a notebook's has none
            stream.reconfigure(line_buffering=True, errors='backslashreplace')
    sys.stdout, sys.stderr = Stream(sys.stdout, True), Stream(sys.stderr, False)

    def leave(number, frame):
        raise KeyboardInterrupt(number)
    ends = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, 'SIGHUP', None)  # Windows has none
    if hang_up and signal.getsignal(hang_up) != signal.SIG_IGN:  # nohup has it ignored
        ends.append(hang_up)
    before = [(each, signal.signal(each, leave)) for each in ends]
    try:
        yield
    except KeyboardInterrupt as end:
        raise SystemExit(128 + end.args[0])
    finally:  # a notebook goes on
        for each, handler in before:
            signal.signal(each, handler)
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = kept
