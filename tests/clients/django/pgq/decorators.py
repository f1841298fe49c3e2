"""@task: registers a function as a task of a queue.

    @task(queue, max_retries=5)
    def send_mail(queue, job, args, meta):
        ...

    send_mail.enqueue({"to": "ada@example.org"})
"""

import dataclasses


@dataclasses.dataclass
class JobMeta:
    job_id: int
    retries: int = 0


class AsyncTask:
    """What a decorated function becomes: the way to put a job for it."""

    def __init__(self, queue, name, max_retries):
        self.queue = queue
        self.name = name
        self.max_attempts = None if max_retries is None else max_retries + 1

    def enqueue(self, args=None, execute_at=None, priority=None):
        return self.queue.enqueue(self.name, args, execute_at, priority, self.max_attempts)


def task(queue, max_retries=None):
    """max_retries: None takes what the queue is configured for."""

    def register(function):
        name = function.__name__
        assert name not in queue.tasks, name
        queue.tasks[name] = lambda queue, job: function(queue, job, job.args, JobMeta(job.id, job.failures))
        return AsyncTask(queue, name, max_retries)

    return register
