"""The backend of django.tasks, for the settings, and the queue that runs what it puts:

    TASKS = {"default": {"BACKEND": "pgq.backend.PgqBackend", "QUEUES": ["default"]}}

    class Command(Worker):
        queue = TaskQueue("default")

A task that is enqueued in a transaction exists when that commits, or never. Results cannot be fetched
(supports_get_result). In Django 6 import from django.tasks what is imported from django_tasks here.
"""

from django.utils import timezone
from django.utils.module_loading import import_string
from django_tasks.base import Task, TaskContext, TaskResult, TaskResultStatus
from django_tasks.backends.base import BaseTaskBackend
from django_tasks.signals import task_enqueued, task_finished, task_started

from .queue import AtLeastOnceQueue, dumps, query


def result_of(task, job_id, status, args, kwargs):
    return TaskResult(
        task=task, id=str(job_id), status=status, args=args, kwargs=kwargs, backend=task.backend,
        enqueued_at=timezone.now(), started_at=None, last_attempted_at=None, finished_at=None,
        errors=[], worker_ids=[],
    )  # fmt: skip


class PgqBackend(BaseTaskBackend):
    supports_defer = True
    supports_async_task = True
    supports_priority = True

    def enqueue(self, task, args, kwargs):
        self.validate_task(task)
        call = dumps({"path": task.module_path, "args": args, "kwargs": kwargs})
        [(job_id,)] = query(
            "SELECT pgq.put(%s, %s::jsonb, priority => %s, execute_at => %s)",
            task.queue_name, call, task.priority, task.run_after,
        )  # fmt: skip
        result = result_of(task, job_id, TaskResultStatus.READY, args, kwargs)
        task_enqueued.send(type(self), task_result=result)
        return result


class TaskQueue(AtLeastOnceQueue):
    """Runs tasks of django.tasks, each in the transaction of its claim. Mix run_job into another kind of
    queue for another way."""

    def __init__(self, queue="default"):
        super().__init__({}, queue=queue)

    def run_job(self, job):
        call = job.args
        task = import_string(call["path"])
        if not isinstance(task, Task):
            raise TypeError(f"{call['path']} is no task")
        result = result_of(task, job.id, TaskResultStatus.RUNNING, call["args"], call["kwargs"])
        result.worker_ids.extend(["pgq"] * job.attempt)  # whose number is the attempt's
        context = [TaskContext(task_result=result)] if task.takes_context else []
        task_started.send(type(task.get_backend()), task_result=result)
        value, status = None, TaskResultStatus.FAILED
        try:
            value = task.call(*context, *call["args"], **call["kwargs"])
            status = TaskResultStatus.SUCCESSFUL
        finally:
            object.__setattr__(result, "status", status)
            object.__setattr__(result, "finished_at", timezone.now())
            task_finished.send(type(task.get_backend()), task_result=result)
        return value
