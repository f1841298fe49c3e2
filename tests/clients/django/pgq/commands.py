"""The base of a management command that works for a queue:

    class Command(Worker):
        queue = queue
"""

import logging
import select
import signal
import socket

from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection

from .queue import PgqException

log = logging.getLogger("pgq")


class Stop:
    """Set by SIGTERM and SIGINT. A select() that waits for it returns at once."""

    def __init__(self):
        self.asked = False
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        signal.set_wakeup_fd(self.writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.ask)

    def ask(self, number, frame):
        self.asked = True

    def fileno(self):
        return self.reader.fileno()


class Worker(BaseCommand):
    """Runs jobs until SIGTERM or SIGINT, and then finishes the running one."""

    queue = None

    def add_arguments(self, parser):
        parser.add_argument("--delay", type=float, default=1, help="seconds after which to look again")
        parser.add_argument("--listen", action="store_true", help="wait for NOTIFY (not behind a pooler)")

    def handle(self, *, delay, listen, **options):
        stop = Stop()
        pause = 0.1
        while not stop.asked:
            try:
                connection.ensure_connection()
                pause = 0.1
                self.work(stop, delay, listen)
            except (OperationalError, InterfaceError) as error:
                log.warning("connection lost, next try in %.1f s: %s", pause, error)
                connection.close()
                select.select([stop], [], [], pause)
                pause = min(2 * pause, 5)

    def work(self, stop, delay, listen):
        if listen:
            self.queue.listen()
        while not stop.asked:
            try:
                is_idle = self.queue.run_once() is None
            except PgqException as failure:
                log.warning("%s: %r", failure, failure.__cause__)
                is_idle = False
            if is_idle:
                self.queue.wait(delay, stop)
