"""The example project's app: a queue, its tasks, and the command that works for it."""
