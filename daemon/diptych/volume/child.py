"""A decoder child: reads paths from a socket, answers with instances, until its parent is gone.

Started by ``decoders.DecoderPool`` as ``python -m diptych.volume.child``; never by hand.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import warnings
from pathlib import Path

import pydicom

from diptych.errors import Reason

from . import wire
from .instance import decode_file
from .limits import Limits
from .plane import Refusal


def main() -> None:
    """Serve until the request socket ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--limits", type=json.loads, required=True)
    arguments = parser.parse_args()
    _live_no_longer_than_the_parent(arguments.life)
    _confine(arguments.memory)
    with socket.socket(fileno=arguments.socket) as sock:
        _quiet()
        wire.send(sock, wire.READY)
        _serve(sock, Limits(**arguments.limits))


def _serve(sock: socket.socket, limits: Limits) -> None:
    stream = sock.makefile("rb")
    while line := stream.readline():
        request = json.loads(line)
        path = os.fsdecode(bytes.fromhex(request["path"]))
        answer = decode_file(Path(path), limits, pixels=request["pixels"])
        try:
            wire.send(sock, answer)
        except MemoryError:
            wire.send(sock, Refusal(path, Reason.TOO_LARGE, "the decoder's memory limit"))
        del answer


def _live_no_longer_than_the_parent(life: int) -> None:
    # The parent holds the other end of this pipe. When it dies, by SIGKILL too, the kernel sends
    # SIGIO, whose default action ends us even inside a native decoder. PR_SET_PDEATHSIG would
    # follow the thread that started us instead of the process.
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(life, fcntl.F_GETFL)
    fcntl.fcntl(life, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    try:
        # Nobody ever writes: an end of file means that the parent was gone before we listened.
        if os.read(life, 1) == b"":
            os._exit(0)
    except BlockingIOError:
        pass


def _confine(memory: int) -> None:
    # Ctrl-C and a service manager's SIGTERM reach the whole group: the parent decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # A core dump would be a file full of somebody's pixels.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _quiet() -> None:
    # Libraries print values of the data set, that is patient data, on warnings and errors.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(silence, stream)


if __name__ == "__main__":
    main()
