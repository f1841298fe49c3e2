"""A worker for one queue, with psycopg 3 and asyncio: `python worker.py`.

Two ways to claim, PGQ_WAY:

transaction  Claim, work and COMMIT are one transaction: what the work does on this connection happens
             exactly once. A job that kills the worker (out of memory, a segfault) is back at once and
             nothing is counted, so it can kill one worker after the other, for ever.
lease        The claim commits at once; the job is done again if this worker does not complete it while
             the lease lasts: at least once. A job that kills the worker is back when its lease ends, a
             failure is counted, and at max_attempts the job is dead. For long work, and for work that
             is not in the database.
"""

import asyncio
import contextlib
import logging
import os
import signal

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


# --- the work: one coroutine for each task of the queue


async def insert(connection, job):
    await connection.execute("INSERT INTO effect (job, attempt) VALUES (%s, %s)", (job.id, job.attempt))


async def sleep(connection, job):
    await insert(connection, job)
    await asyncio.sleep(job.args["seconds"])


async def fail(connection, job):
    await insert(connection, job)
    raise ValueError("failed on purpose")


TASKS = {"insert": insert, "sleep": sleep, "fail": fail}


# --- one job


async def run_in_transaction(connection):
    """Claims a job, does it, and commits both. False: there is none."""
    job = None
    try:
        async with connection.transaction():
            cursor = await connection.execute(
                "SELECT * FROM pgq.claim(%s, tasks => %s)", (QUEUE, list(TASKS))
            )
            job = await cursor.fetchone()
            if job is not None:
                await TASKS[job.task](connection, job)
    except Exception as error:  # rolled back by now: the job is ready again
        if job is None or connection.closed:
            raise
        await record_failure(connection, job, error)
    return job is not None


async def run_with_lease(connection):
    """Claims a job with a lease, does it, and completes it. False: there is none."""
    cursor = await connection.execute(
        "SELECT * FROM pgq.claim(%s, tasks => %s, lease => make_interval(secs => %s))",
        (QUEUE, list(TASKS), LEASE_SECONDS),
    )
    job = await cursor.fetchone()
    if job is None:
        return False
    try:
        async with heartbeat(job):
            await TASKS[job.task](connection, job)
    except Exception as error:
        if connection.closed:
            raise
        await record_failure(connection, job, error)
        return True
    cursor = await connection.execute("SELECT pgq.complete(%s, %s)", (job.id, job.attempt))
    (accepted,) = await cursor.fetchone()
    if not accepted:
        log.warning("job %s: attempt %s had lost its lease; it is done again", job.id, job.attempt)
    return True


async def record_failure(connection, job, error):
    """In a transaction of its own: otherwise the failing job would be the next one, at once, for ever."""
    log.warning("job %s, attempt %s: %s: %s", job.id, job.attempt, type(error).__name__, error)
    message = f"{type(error).__name__}: {error}"
    await connection.execute("SELECT pgq.fail(%s, %s, %s)", (job.id, job.attempt, message))


@contextlib.asynccontextmanager
async def heartbeat(job):
    """Extends the lease every third of it, in a task, on a connection of its own.

    Work that does not give way to the event loop holds it up: such work belongs into a thread
    (asyncio.to_thread)."""

    async def beat():
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                async with await connect() as connection:
                    await connection.execute(
                        "SELECT pgq.extend(%s, %s, make_interval(secs => %s))",
                        (job.id, job.attempt, LEASE_SECONDS),
                    )
            except psycopg.OperationalError as error:
                log.warning("no heartbeat this time: %s", error)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait([beating])


# --- the loop


async def connect():
    return await psycopg.AsyncConnection.connect(
        DSN,
        autocommit=True,
        connect_timeout=10,
        row_factory=namedtuple_row,
        prepare_threshold=None if POOLED else 5,
    )


async def first_of(seconds, *awaitables):
    """Waits for the first of them, at most so long, and cancels the others."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    done, others = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()  # raises what it raised


async def notified(connection):
    """Returns when the queue was notified; also of what came while a claim was under way."""
    async for _ in connection.notifies(stop_after=1):
        pass


async def work(connection, stop):
    run_one = run_with_lease if WAY == "lease" else run_in_transaction
    if not POOLED:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"pgq_{QUEUE}")))
    while not stop.is_set():
        if not await run_one(connection):
            await first_of(POLL_SECONDS, notified(connection), stop.wait())


async def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    pause = 0.1
    while not stop.is_set():
        try:
            async with await connect() as connection:
                pause = 0.1
                await work(connection, stop)
        except psycopg.OperationalError as error:
            log.warning("connection lost, next try in %.1f s: %s", pause, error)
            await first_of(pause, stop.wait())
            pause = min(2 * pause, 5)


if __name__ == "__main__":
    asyncio.run(main())
