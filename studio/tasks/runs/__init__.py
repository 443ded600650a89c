"""The work of the tasks, a module each: `parse` reads untrusted values into a request, `run` does the work of a job.

Apart from the task table, since these import PyTorch and the table is imported for the command line's help.
"""
