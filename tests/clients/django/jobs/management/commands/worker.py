"""`manage.py worker`."""

from jobs import tasks  # noqa: F401 (importing registers them)
from jobs.queues import queue
from pgq.commands import Worker


class Command(Worker):
    queue = queue
