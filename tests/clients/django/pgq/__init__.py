"""A Django app for the PostgreSQL extension pgq, in the shape of the library django-pg-queue, whose module
has this name too: take that one out, copy this directory in, and leave `manage.py migrate` away, because
the jobs are the extension's. What django-pg-queue does not have: a task that raises is tried again,
later and later, and ends in the dead letters.

queue.py       AtLeastOnceQueue, AtMostOnceQueue, LeaseQueue: enqueue, bulk_enqueue, run_once
decorators.py  @task
commands.py    Worker, the base of your management command
backend.py     PgqBackend, for TASKS in the settings (django.tasks), and its queue
"""
