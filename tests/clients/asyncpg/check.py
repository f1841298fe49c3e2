"""What only this recipe has: put() in a transaction of the caller's, calls with any data, sync and async
tasks, and several at a time."""

import asyncio
import os
import threading
import time

import asyncpg

from pgq_asyncpg import Worker, current_job, put

DSN = os.environ["PGQ_DSN"]
QUEUE = os.environ["PGQ_QUEUE"]


async def run(tasks, **options):
    await asyncio.wait_for(Worker(DSN, queue=QUEUE, tasks=tasks, burst=True, **options).run(), 20)


async def state(db, job):
    return await db.fetchval("SELECT state || ' ' || coalesce(attempt, 0) FROM pgq.wait($1, '0')", job)


async def a_put_that_rolls_back_never_happened(db):
    done = []
    try:
        async with db.transaction():
            await put(db, "note", ["rolled back"], queue=QUEUE)
            raise KeyError
    except KeyError:
        pass
    async with db.transaction():
        await put(db, "note", ["committed"], queue=QUEUE)
    await run({"note": done.append})
    assert done == ["committed"], done


async def data_is_spread_as_arguments(db):
    calls = []

    def call(*args, **kwargs):
        calls.append((args, kwargs, threading.current_thread() is threading.main_thread()))

    async def acall(*args, **kwargs):
        call(*args, **kwargs)

    expected = []
    for data, args, kwargs in [
        (None, (), {}),
        ([1, "b"], (1, "b"), {}),
        ({"a": [1]}, (), {"a": [1]}),
        (7, (7,), {}),
    ]:
        await put(db, "call", data, queue=QUEUE)
        await put(db, "acall", data, queue=QUEUE)
        expected += [(args, kwargs, False), (args, kwargs, True)]
    await run({"call": call, "acall": acall}, concurrency=1)
    assert calls == expected, calls


async def several_run_at_a_time(db):
    running, most = 0, 0

    async def task():
        nonlocal running, most
        running += 1
        most = max(most, running)
        while most < 3:
            await asyncio.sleep(0.01)
        running -= 1

    async with db.transaction():
        for _ in range(6):
            await put(db, "task", queue=QUEUE)
    await run({"task": task}, concurrency=3)
    assert most == 3, most


async def larger_priorities_are_first_and_later_is_later(db):
    done = []
    for name, priority in [("low", -1), ("high", 5), ("middle", 0)]:
        await put(db, "note", name, queue=QUEUE, priority=priority)
    in_an_hour = await db.fetchval("SELECT now() + interval '1 hour'")
    later = await put(db, "note", "later", queue=QUEUE, execute_at=in_an_hour)
    await run({"note": done.append}, concurrency=1)
    assert done == ["high", "middle", "low"], done
    assert await state(db, later) == "scheduled 0"


async def a_task_that_raises_or_takes_too_long_is_tried_again(db):
    async def slow():
        await asyncio.sleep(60)

    def broken():
        job = current_job()
        job.execute("INSERT INTO effect (job, attempt) VALUES ($1, $2)", job.id, job.attempt)
        raise RuntimeError("broken")

    began = time.monotonic()
    jobs = [await put(db, name, queue=QUEUE) for name in ("slow", "broken")]
    await run({"slow": slow, "broken": broken}, timeout=0.3, concurrency=2)
    assert time.monotonic() - began < 10
    for job in jobs:
        assert await state(db, job) == "scheduled 1", await state(db, job)
        assert await db.fetchval("SELECT count(*) FROM effect WHERE job = $1", job) == 0


async def main():
    db = await asyncpg.connect(DSN)
    for check in (
        a_put_that_rolls_back_never_happened,
        data_is_spread_as_arguments,
        several_run_at_a_time,
        larger_priorities_are_first_and_later_is_later,
        a_task_that_raises_or_takes_too_long_is_tried_again,
    ):
        print(check.__name__, flush=True)
        await check(db)
    await db.close()


if __name__ == "__main__":
    asyncio.run(main())
