"""Queues: three ways to claim.

AtLeastOnceQueue  Claim, task and COMMIT are one transaction: what a task does in this database happens
                  exactly once. A job that kills the worker (out of memory, a segfault) is back at once
                  and nothing is counted, so it can kill one worker after the other, for ever.
AtMostOnceQueue   The claim commits, then the task runs. A job that fails or kills its worker is gone.
LeaseQueue        The claim commits; the job is done again if its worker does not complete it while the
                  lease lasts: at least once. A job that kills the worker is back when its lease ends, a
                  failure is counted, and at max_attempts the job is dead. For long tasks, and for what
                  is not in the database.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
import select
import threading
import time
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error, connection, transaction

log = logging.getLogger("pgq")


class PgqException(Exception):
    """A task failed; the cause is its error. The failure is recorded."""

    def __init__(self, job):
        super().__init__(f"{job} failed")
        self.job = job


@dataclasses.dataclass
class Job:
    """A job as it was put or claimed."""

    id: int
    queue: str
    task: str
    args: Any
    priority: int = 0
    execute_at: datetime.datetime | None = None
    created_at: datetime.datetime | None = None
    attempt: int = 0
    failures: int = 0

    def __str__(self):
        return f"job {self.id} ({self.task}), attempt {self.attempt}"


def query(sql, *arguments):
    """The rows of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments)
        return cursor.fetchall()


def dumps(value):
    return json.dumps(value, cls=DjangoJSONEncoder)


class Queue:
    """A queue and its tasks: functions called with the queue and the Job.

    notify_channel is taken and not needed: pgq notifies by itself."""

    def __init__(self, tasks, notify_channel=None, queue="default"):
        self.tasks = tasks
        self.queue = queue
        self.session = None  # that claimed last

    # --- putting: in the transaction of the caller, if there is one

    def enqueue(self, task, args=None, execute_at=None, priority=None, max_attempts=None):
        """Puts a job. Larger priorities first; execute_at: not before that."""
        assert task in self.tasks, task
        job = Job(0, self.queue, task, {} if args is None else args, priority or 0, execute_at)
        [(job.id,)] = query(
            "SELECT pgq.put(%s, %s::jsonb, priority => %s, execute_at => %s, task => %s, max_attempts => %s)",
            self.queue, dumps(job.args), job.priority, execute_at, task, max_attempts,
        )  # fmt: skip
        return job

    def bulk_enqueue(self, task, kwargs_list, batch_size=None):
        """Puts many, each a dict of args, priority, execute_at. One statement for batch_size of them."""
        assert task in self.tasks, task
        jobs = [Job(0, self.queue, task, **{"args": {}, **kwargs}) for kwargs in kwargs_list]
        size = batch_size or 10_000
        for start in range(0, len(jobs), size):
            batch = jobs[start : start + size]
            described = [
                {"args": job.args, "priority": job.priority}
                | ({"execute_at": job.execute_at} if job.execute_at else {})
                for job in batch
            ]
            ids = query("SELECT pgq.bulk_put(%s, %s::jsonb, task => %s)", self.queue, dumps(described), task)
            for job, (job.id,) in zip(batch, ids, strict=True):
                pass
        return jobs

    # --- waiting

    def listen(self):
        name = connection.ops.quote_name(f"pgq_{self.queue}")
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {name}")

    def wait(self, timeout=30, *others):
        """Until jobs were notified, one of the others can be read, or the time has passed."""
        # What was notified during the claim is here already, and no longer in the socket.
        if not list(connection.connection.notifies(timeout=0)):
            select.select([connection.connection, *others], [], [], timeout)

    # --- running

    def run_once(self):
        """Claims a job and runs it: (Job, what the task returned), or None if there is none.
        PgqException: it failed, which is recorded."""
        raise NotImplementedError

    def claim(self, lease_seconds=None):
        rows = query(
            "SELECT id, queue, task, args, priority, execute_at, created_at, attempt, failures"
            "  FROM pgq.claim(%s, tasks => %s, lease => make_interval(secs => %s))",
            self.queue, list(self.tasks) or None, lease_seconds,
        )  # fmt: skip
        if not rows:
            return None
        self.session = connection.connection
        job = Job(*rows[0])
        job.args = json.loads(job.args)
        return job

    def is_lost(self):
        """Has the session ended that claimed? Where one is lost in a transaction, Django opens another one
        without a word: what that has to say about the job is not true, and it does not LISTEN."""
        return connection.connection is not self.session or self.session.closed

    def run_job(self, job):
        began = time.monotonic()
        result = self.tasks[job.task](self, job)
        log.debug("%s took %.3f s", job, time.monotonic() - began)
        return result

    def record_failure(self, job, error):
        """In a transaction of its own: otherwise the failing job would be the next one, at once, for ever."""
        query("SELECT pgq.fail(%s, %s, %s)", job.id, job.attempt, f"{type(error).__name__}: {error}")


class AtLeastOnceQueue(Queue):
    def run_once(self):
        job = None
        try:
            with transaction.atomic(durable=True):
                job = self.claim()
                return job and (job, self.run_job(job))
        except Exception as error:  # rolled back by now: the job is ready again
            if job is None or self.is_lost():
                raise
            self.record_failure(job, error)
            raise PgqException(job) from error


class AtMostOnceQueue(Queue):
    def run_once(self):
        with transaction.atomic(durable=True):
            job = self.claim()
        if job is None:
            return None
        try:
            return job, self.run_job(job)
        except Exception as error:
            raise PgqException(job) from error


class LeaseQueue(Queue):
    def __init__(self, tasks, notify_channel=None, queue="default", lease_seconds=30):
        super().__init__(tasks, notify_channel, queue)
        self.lease_seconds = lease_seconds

    def run_once(self):
        job = self.claim(self.lease_seconds)
        if job is None:
            return None
        try:
            with self.heartbeat(job):
                result = self.run_job(job)
        except Exception as error:
            if self.is_lost():
                raise
            self.record_failure(job, error)
            raise PgqException(job) from error
        [(accepted,)] = query("SELECT pgq.complete(%s, %s)", job.id, job.attempt)
        if not accepted:
            log.warning("%s had lost its lease; the job is done again", job)
        return job, result

    @contextlib.contextmanager
    def heartbeat(self, job):
        """Extends the lease every third of it, in a thread, where Django gives a connection of its own."""
        done = threading.Event()

        def beat():
            while not done.wait(self.lease_seconds / 3):
                try:
                    query(
                        "SELECT pgq.extend(%s, %s, make_interval(secs => %s))",
                        job.id, job.attempt, self.lease_seconds,
                    )  # fmt: skip
                except Error as error:
                    log.warning("no heartbeat this time: %s", error)
                finally:
                    connection.close()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
