"""The example project's settings."""

import os
from urllib.parse import urlsplit

dsn = urlsplit(os.environ["PGQ_DSN"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": dsn.hostname,
        "PORT": dsn.port,
        "USER": dsn.username,
        "NAME": dsn.path.lstrip("/"),
        "DISABLE_SERVER_SIDE_CURSORS": True,  # as always behind a pooler in transaction mode
    }
}
INSTALLED_APPS = ["django_tasks", "pgq", "jobs"]
TASKS = {"default": {"BACKEND": "pgq.backend.PgqBackend", "QUEUES": [os.environ["PGQ_QUEUE"] + "_tasks"]}}
USE_TZ = True
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"pgq": {"handlers": ["console"], "level": "INFO"}},
}
