"""A worker for one queue, with psycopg 3: `python worker.py`.

Two ways to claim, PGQ_WAY:

transaction  Claim, work and COMMIT are one transaction: what the work does on this connection happens
             exactly once. A job that kills the worker (out of memory, a segfault) is back at once and
             nothing is counted, so it can kill one worker after the other, for ever.
lease        The claim commits at once; the job is done again if this worker does not complete it while
             the lease lasts: at least once. A job that kills the worker is back when its lease ends, a
             failure is counted, and at max_attempts the job is dead. For long work, and for work that
             is not in the database.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

DSN = os.environ["PGQ_DSN"]
QUEUE = os.environ["PGQ_QUEUE"]
WAY = os.environ.get("PGQ_WAY", "transaction")
LEASE_SECONDS = int(os.environ.get("PGQ_LEASE_SECONDS", "30"))
# For what no notification tells: jobs whose notification was lost with a connection.
POLL_SECONDS = int(os.environ.get("PGQ_POLL_SECONDS", "30"))
# Behind a pooler in transaction mode nothing of a session lasts: neither LISTEN nor prepared statements.
POOLED = os.environ.get("PGQ_POOLED") == "1"

log = logging.getLogger("worker")


# --- the work: one function for each task of the queue


def insert(connection, job):
    connection.execute("INSERT INTO effect (job, attempt) VALUES (%s, %s)", (job.id, job.attempt))


def sleep(connection, job):
    insert(connection, job)
    time.sleep(job.args["seconds"])


def fail(connection, job):
    insert(connection, job)
    raise ValueError("failed on purpose")


TASKS = {"insert": insert, "sleep": sleep, "fail": fail}


# --- one job


def run_in_transaction(connection):
    """Claims a job, does it, and commits both. False: there is none."""
    job = None
    try:
        with connection.transaction():
            job = connection.execute(
                "SELECT * FROM pgq.claim(%s, tasks => %s)", (QUEUE, list(TASKS))
            ).fetchone()
            if job is not None:
                TASKS[job.task](connection, job)
    except Exception as error:  # rolled back by now: the job is ready again
        if job is None or connection.closed:
            raise
        record_failure(connection, job, error)
    return job is not None


def run_with_lease(connection):
    """Claims a job with a lease, does it, and completes it. False: there is none."""
    job = connection.execute(
        "SELECT * FROM pgq.claim(%s, tasks => %s, lease => make_interval(secs => %s))",
        (QUEUE, list(TASKS), LEASE_SECONDS),
    ).fetchone()
    if job is None:
        return False
    try:
        with heartbeat(job):
            TASKS[job.task](connection, job)
    except Exception as error:
        if connection.closed:
            raise
        record_failure(connection, job, error)
        return True
    accepted = connection.execute("SELECT pgq.complete(%s, %s)", (job.id, job.attempt)).fetchone()[0]
    if not accepted:
        log.warning("job %s: attempt %s had lost its lease; it is done again", job.id, job.attempt)
    return True


def record_failure(connection, job, error):
    """In a transaction of its own: otherwise the failing job would be the next one, at once, for ever."""
    log.warning("job %s, attempt %s: %s: %s", job.id, job.attempt, type(error).__name__, error)
    message = f"{type(error).__name__}: {error}"
    connection.execute("SELECT pgq.fail(%s, %s, %s)", (job.id, job.attempt, message))


@contextlib.contextmanager
def heartbeat(job):
    """Extends the lease every third of it, in a thread, on a connection of its own."""
    done = threading.Event()

    def beat():
        while not done.wait(LEASE_SECONDS / 3):
            try:
                with connect() as connection:
                    connection.execute(
                        "SELECT pgq.extend(%s, %s, make_interval(secs => %s))",
                        (job.id, job.attempt, LEASE_SECONDS),
                    )
            except psycopg.OperationalError as error:
                log.warning("no heartbeat this time: %s", error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# --- the loop


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


def connect():
    return psycopg.connect(
        DSN,
        autocommit=True,
        connect_timeout=10,
        row_factory=namedtuple_row,
        prepare_threshold=None if POOLED else 5,
    )


def work(connection, stop):
    run_one = run_with_lease if WAY == "lease" else run_in_transaction
    if not POOLED:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"pgq_{QUEUE}")))
    while not stop.asked:
        if run_one(connection):
            continue
        # What was notified during the claim is here already, and no longer in the socket.
        if not list(connection.notifies(timeout=0)):
            select.select([connection, stop], [], [], POLL_SECONDS)


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = Stop()
    pause = 0.1
    while not stop.asked:
        try:
            with connect() as connection:
                pause = 0.1
                work(connection, stop)
        except psycopg.OperationalError as error:
            log.warning("connection lost, next try in %.1f s: %s", pause, error)
            select.select([stop], [], [], pause)
            pause = min(2 * pause, 5)


if __name__ == "__main__":
    main()
