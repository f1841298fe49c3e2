"""put() and Worker for asyncpg: the shape of the library asyncpg-queue, on pgq. Copy this file.

    async with db.transaction():
        await db.execute("INSERT INTO users ...")
        await put(db, "send-welcome-email", {"email": "ada@example.org"})

    await Worker(dsn, tasks={"send-welcome-email": send_welcome_email}, concurrency=9).run()

A task is a callable, sync (run in a thread) or async, called with the data of put(): a dict as keyword
arguments, a list as positional ones, anything else as one argument, None as none. What asyncpg-queue
does not have: a task that raises is tried again, later and later, and ends in the dead letters.

Two ways to claim, Worker(way=...):

transaction  Claim, task and COMMIT are one transaction: what a task does with current_job() in the
             database happens exactly once. A job that kills the worker (out of memory, a segfault) is
             back at once and nothing is counted, so it can kill one worker after the other, for ever.
lease        The claim commits at once; the job is done again if this worker does not complete it while
             the lease lasts: at least once. A job that kills the worker is back when its lease ends, a
             failure is counted, and at max_attempts the job is dead. For long work, and for work that
             is not in the database.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import inspect
import json
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg

log = logging.getLogger("worker")

# What says that a connection is lost, or cannot be had for now. A server that ends a session says so first
# (57P01) and closes it a moment later; a ROLLBACK in between is an InternalClientError.
LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)

_current_job = contextvars.ContextVar("pgq_job")


async def put(db, task, data=None, *, queue="default", priority=0, execute_at=None, key=None):
    """Puts a job and returns its id. In a transaction of yours it exists when that commits, or never."""
    name = task if isinstance(task, str) else task.__qualname__
    return await db.fetchval(
        "SELECT pgq.put($1, $2, priority => $3, execute_at => $4, task => $5, key => $6)",
        queue, json.dumps(data), priority, execute_at, name, key,
    )  # fmt: skip


def current_job():
    """The job that the running task is called for."""
    return _current_job.get()


@dataclasses.dataclass(frozen=True)
class Job:
    """A claimed job, and the connection that claimed it."""

    id: int
    attempt: int
    task: str
    data: Any
    connection: asyncpg.Connection
    loop: asyncio.AbstractEventLoop

    def execute(self, query, *arguments):
        """Runs a statement on the job's connection: for sync tasks, from their thread."""
        statement = self.connection.execute(query, *arguments)
        return asyncio.run_coroutine_threadsafe(statement, self.loop).result()


class Worker:
    """Runs the jobs of one queue whose task it knows, up to `concurrency` at a time, each on a connection
    of its own; one more connection listens.

    burst: stop when there is nothing to do. timeout: seconds after which an async task is cancelled and
    counted as failed (nobody can cancel a thread). pooled: behind a pooler in transaction mode, where
    LISTEN and prepared statements do not last."""

    def __init__(self, dsn, *, tasks, queue="default", concurrency=9, timeout=60, burst=False,
                 way="transaction", lease_seconds=30, poll_seconds=30, pooled=False):  # fmt: skip
        self.dsn = dsn
        self.tasks = tasks
        self.queue = queue
        self.concurrency = concurrency
        self.timeout = timeout
        self.burst = burst
        self.lease_seconds = lease_seconds
        self.poll_seconds = poll_seconds
        self.pooled = pooled
        self._run_one = {"transaction": self._run_in_transaction, "lease": self._run_with_lease}[way]
        self._stopping = False
        self._heard = 0  # notifications so far
        self._change = asyncio.Condition()  # of these two

    async def run(self):
        """Returns after shutdown(), SIGTERM or SIGINT, when the running tasks have ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.shutdown)
        with ThreadPoolExecutor(self.concurrency, "pgq") as self._threads:
            listening = None if self.pooled else asyncio.create_task(self._connected(self._listen))
            await asyncio.gather(*(self._connected(self._serve) for _ in range(self.concurrency)))
            if listening:
                self._stopping = True
                await self._tell()
                await listening

    def shutdown(self):
        """Finishes what is running, and nothing else."""
        self._stopping = True
        self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self):
        async with self._change:
            self._change.notify_all()

    async def _until(self, is_true, seconds=None):
        """Waits until something changed that makes it true, at most so long."""
        async with self._change:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._change.wait_for(is_true)

    # --- connections

    def _connect(self):
        return asyncpg.connect(self.dsn, timeout=10, statement_cache_size=0 if self.pooled else 100)

    async def _connected(self, work):
        """Connects, and again whenever the connection is lost, and does work(connection)."""
        pause = 0.1
        while not self._stopping:
            connection = None
            try:
                connection = await self._connect()
                pause = 0.1
                await work(connection)
                return
            except LOST as error:
                log.warning("connection lost, next try in %.1f s: %s", pause, error)
                await self._until(lambda: self._stopping, pause)
                pause = min(2 * pause, 5)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _listen(self, connection):
        lost = False

        async def hear(*_):
            self._heard += 1
            await self._tell()

        async def lose(*_):
            nonlocal lost
            lost = True
            await self._tell()

        connection.add_termination_listener(lose)
        await connection.add_listener(f"pgq_{self.queue}", hear)
        await hear()  # what came before is not told again
        await self._until(lambda: lost or self._stopping)
        if lost:
            raise asyncpg.ConnectionDoesNotExistError("the listening connection is gone")

    async def _serve(self, connection):
        while not self._stopping:
            heard = self._heard  # before the claim: what comes during it counts
            if await self._run_one(connection):
                continue
            if self.burst:
                return
            await self._until(lambda: self._stopping or self._heard != heard, self.poll_seconds)

    # --- one job

    async def _run_in_transaction(self, connection):
        """Claims a job, does it, and commits both. False: there is none."""
        job = None
        try:
            async with connection.transaction():
                job = await self._claim(connection)
                if job is not None:
                    await self._call(job)
        except Exception as error:  # rolled back by now: the job is ready again
            if job is None or connection.is_closed():
                raise
            await self._record_failure(job, error)
        return job is not None

    async def _run_with_lease(self, connection):
        """Claims a job with a lease, does it, and completes it. False: there is none."""
        async with connection.transaction():
            job = await self._claim(connection, self.lease_seconds)
        if job is None:
            return False
        try:
            async with self._heartbeat(job):
                await self._call(job)
        except Exception as error:
            if connection.is_closed():
                raise
            await self._record_failure(job, error)
            return True
        async with connection.transaction():
            accepted = await connection.fetchval("SELECT pgq.complete($1, $2)", job.id, job.attempt)
        if not accepted:
            log.warning("job %s: attempt %s had lost its lease; it is done again", job.id, job.attempt)
        return True

    async def _claim(self, connection, lease_seconds=None):
        row = await connection.fetchrow(
            "SELECT id, attempt, task, args FROM pgq.claim($1, tasks => $2, lease => make_interval(secs => $3))",
            self.queue, list(self.tasks), lease_seconds,
        )  # fmt: skip
        if row is None:
            return None
        loop = asyncio.get_running_loop()
        return Job(row["id"], row["attempt"], row["task"], json.loads(row["args"]), connection, loop)

    async def _call(self, job):
        _current_job.set(job)
        task = self.tasks[job.task]
        if job.data is None:
            call = functools.partial(task)
        elif isinstance(job.data, dict):
            call = functools.partial(task, **job.data)
        elif isinstance(job.data, list):
            call = functools.partial(task, *job.data)
        else:
            call = functools.partial(task, job.data)
        if inspect.iscoroutinefunction(task):
            async with asyncio.timeout(self.timeout):
                await call()
        else:
            context = contextvars.copy_context()
            await job.loop.run_in_executor(self._threads, context.run, call)

    async def _record_failure(self, job, error):
        """In a transaction of its own: otherwise the failing job would be the next one, at once, for ever."""
        log.warning("job %s, attempt %s: %s: %s", job.id, job.attempt, type(error).__name__, error)
        message = f"{type(error).__name__}: {error}"
        async with job.connection.transaction():
            await job.connection.execute("SELECT pgq.fail($1, $2, $3)", job.id, job.attempt, message)

    @contextlib.asynccontextmanager
    async def _heartbeat(self, job):
        """Extends the lease every third of it, on a connection of its own. An async task that does not give
        way to the event loop holds it up: make it a sync one."""

        async def beat():
            while True:
                await asyncio.sleep(self.lease_seconds / 3)
                try:
                    connection = await self._connect()
                    try:
                        async with connection.transaction():
                            await connection.execute(
                                "SELECT pgq.extend($1, $2, make_interval(secs => $3))",
                                job.id, job.attempt, self.lease_seconds,
                            )  # fmt: skip
                    finally:
                        connection.terminate()
                except LOST as error:
                    log.warning("no heartbeat this time: %s", error)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait([beating])
