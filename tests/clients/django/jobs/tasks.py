"""The work: one function for each task of the queue, and two of django.tasks."""

import asyncio
import time

from django.db import connection
from django_tasks import task as django_task
from pgq.decorators import task

from .queues import queue

INSERT = "INSERT INTO effect (job, attempt) VALUES (%s, %s)"


@task(queue)
def insert(queue, job, args, meta):
    with connection.cursor() as cursor:
        cursor.execute(INSERT, (job.id, job.attempt))


@task(queue)
def sleep(queue, job, args, meta):
    with connection.cursor() as cursor:
        cursor.execute(INSERT, (job.id, job.attempt))
    time.sleep(args["seconds"])


@task(queue)
def fail(queue, job, args, meta):
    with connection.cursor() as cursor:
        cursor.execute(INSERT, (job.id, job.attempt))
    raise ValueError("failed on purpose")


@django_task(queue_name=queue.queue + "_tasks", takes_context=True)
def note(context, *numbers, factor=1):
    for number in numbers:
        with connection.cursor() as cursor:
            cursor.execute(INSERT, (context.task_result.id, factor * number))
    if factor == 0:
        raise ValueError("failed on purpose")


@django_task(queue_name=queue.queue + "_tasks")
async def nap(seconds):
    await asyncio.sleep(seconds)
    return "rested"
