"""What only this recipe has: enqueue and bulk_enqueue, the kinds of queues, and django.tasks."""

import datetime
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from django.db import transaction  # noqa: E402
from django.utils import timezone  # noqa: E402
from jobs import tasks  # noqa: E402
from jobs.queues import queue  # noqa: E402
from pgq.backend import TaskQueue  # noqa: E402
from pgq.queue import AtLeastOnceQueue, AtMostOnceQueue, LeaseQueue, PgqException, query  # noqa: E402

HOUR = datetime.timedelta(hours=1)


def state(job_id):
    [(text,)] = query("SELECT state || ' ' || coalesce(attempt, 0) FROM pgq.wait(%s, '0')", job_id)
    return text


def effects(job_id):
    return [attempt for (attempt,) in query("SELECT attempt FROM effect WHERE job = %s ORDER BY at", job_id)]


def drain(queue):
    """The jobs that were done, and those that failed, in order."""
    done, failed = [], []
    while True:
        try:
            ran = queue.run_once()
        except PgqException as failure:
            failed.append(failure.job)
            continue
        if ran is None:
            return done, failed
        done.append(ran[0])


def an_enqueue_that_rolls_back_never_happened():
    with transaction.atomic():
        tasks.insert.enqueue({"number": 1})
        transaction.set_rollback(True)
    with transaction.atomic():
        job = tasks.insert.enqueue({"number": 2})
    done, failed = drain(queue)
    assert [job.args for job in done] == [{"number": 2}] and not failed, (done, failed)
    assert effects(job.id) == [1] and state(job.id) == "gone 0"


def larger_priorities_are_first_and_later_is_later():
    jobs = [queue.enqueue("insert", priority=priority) for priority in (0, 10)]
    later = queue.enqueue("insert", execute_at=timezone.now() + HOUR)
    jobs += queue.bulk_enqueue(
        "insert",
        [
            {"args": {"number": 3}},
            {"args": {"number": 4}, "priority": 20},
            {"priority": 30, "execute_at": timezone.now() + HOUR},
        ],
        batch_size=2,
    )
    done, failed = drain(queue)
    assert [job.id for job in done] == [jobs[index].id for index in (3, 1, 0, 2)] and not failed
    assert [job.args for job in done] == [{"number": 4}, {}, {}, {"number": 3}]
    assert state(later.id) == state(jobs[4].id) == "scheduled 0"


def each_kind_of_queue_fails_in_its_way():
    for kind, left, end in [
        (AtLeastOnceQueue, [], "scheduled 1"),
        (AtMostOnceQueue, [1], "gone 0"),
        (LeaseQueue, [1], "scheduled 1"),
    ]:
        other = kind(queue.tasks, queue=f"{queue.queue}_{kind.__name__}")
        good, bad = other.enqueue("insert"), other.enqueue("fail")
        done, failed = drain(other)
        assert [job.id for job in done] == [good.id] and [job.id for job in failed] == [bad.id], kind
        assert effects(good.id) == [1] and state(good.id) == "gone 0", kind
        assert effects(bad.id) == left and state(bad.id) == end, (kind, effects(bad.id), state(bad.id))


def django_tasks_are_put_and_run():
    task_queue = TaskQueue(tasks.note.queue_name)
    with transaction.atomic():
        tasks.note.enqueue(7)
        transaction.set_rollback(True)
    low = tasks.note.using(priority=-10).enqueue(1, 2, factor=3)
    later = tasks.note.using(run_after=timezone.now() + HOUR).enqueue(1)
    high = tasks.nap.using(priority=10).enqueue(0.01)
    bad = tasks.note.enqueue(5, factor=0)
    assert low.status == "READY" and high.args == [0.01]
    done, failed = drain(task_queue)
    assert [str(job.id) for job in done] == [high.id, low.id], done
    assert [str(job.id) for job in failed] == [bad.id], failed
    assert effects(low.id) == [3, 6] and effects(bad.id) == []
    assert state(later.id) == "scheduled 0" and state(bad.id) == "scheduled 1"


for check in (
    an_enqueue_that_rolls_back_never_happened,
    larger_priorities_are_first_and_later_is_later,
    each_kind_of_queue_fails_in_its_way,
    django_tasks_are_put_and_run,
):
    print(check.__name__, flush=True)
    check()
