"""A worker with the Worker of pgq_asyncpg.py: `python worker.py`. Its tasks are sync and async."""

import asyncio
import logging
import os
import time

from pgq_asyncpg import Worker, current_job

INSERT = "INSERT INTO effect (job, attempt) VALUES ($1, $2)"


async def insert():
    job = current_job()
    await job.connection.execute(INSERT, job.id, job.attempt)


def sleep(seconds):  # in a thread
    job = current_job()
    job.execute(INSERT, job.id, job.attempt)
    time.sleep(seconds)


async def fail():
    await insert()
    raise ValueError("failed on purpose")


async def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    await Worker(
        os.environ["PGQ_DSN"],
        queue=os.environ["PGQ_QUEUE"],
        tasks={"insert": insert, "sleep": sleep, "fail": fail},
        concurrency=1,
        way=os.environ.get("PGQ_WAY", "transaction"),
        lease_seconds=int(os.environ.get("PGQ_LEASE_SECONDS", "30")),
        poll_seconds=int(os.environ.get("PGQ_POLL_SECONDS", "30")),
        pooled=os.environ.get("PGQ_POOLED") == "1",
    ).run()


if __name__ == "__main__":
    asyncio.run(main())
