"""Tasks: examples, how they become tensors, how answers are judged, and where tasks come from."""

from neuroscope.tasks.example import Example
from neuroscope.tasks.loaders import load_tasks
from neuroscope.tasks.task import Task, Tasks, tasks_of

__all__ = ["Example", "Task", "Tasks", "load_tasks", "tasks_of"]
