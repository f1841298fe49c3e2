"""The queue. A project chooses one of these; this one is told by its environment."""

import os

from pgq.queue import AtLeastOnceQueue, LeaseQueue

if os.environ.get("PGQ_WAY") == "lease":
    seconds = int(os.environ.get("PGQ_LEASE_SECONDS", "30"))
    queue = LeaseQueue(tasks={}, queue=os.environ["PGQ_QUEUE"], lease_seconds=seconds)
else:
    queue = AtLeastOnceQueue(tasks={}, queue=os.environ["PGQ_QUEUE"])
